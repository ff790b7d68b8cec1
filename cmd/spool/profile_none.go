//go:build !profile

package main

// profile does nothing but in a binary of `make profile`.
func profile([]string) (end func()) { return func() {} }
