//go:build !nvml

package gpu

import "errors"

func open(string) (source, error) {
	return nil, errors.New("no GPU support built in (tag nvml)")
}
