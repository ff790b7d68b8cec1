package watcher

import "sync"

// lock is a mutex that may be held over requests. It is a channel, because a goroutine that waits for a
// sync.Mutex keeps the virtual time of testing/synctest from passing, and with it the request that the holder
// waits for: localstack/sim could not run watchers on a store that takes its time.
type lock chan struct{}

var _ sync.Locker = lock(nil)

func newLock() lock { return make(lock, 1) }

// Lock waits until nobody else has it.
func (l lock) Lock() { l <- struct{}{} }

// Unlock gives it to the next.
func (l lock) Unlock() { <-l }
