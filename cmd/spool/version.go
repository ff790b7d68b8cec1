package main

import (
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print version, commit and Go version",
		Description: "Examples:\n   spool version\n   spool version --json",
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := exactArgs(c, 0, 0); err != nil {
				return err
			}
			v := readVersion()
			if c.Bool("json") {
				return p.printJSON(v)
			}
			return p.printf("spool %s %s %s %s/%s\n", v.Version, v.Commit, v.Go, v.OS, v.Arch)
		},
	}
}

// versionInfo is what the Go toolchain wrote into the binary: nothing has to be passed to the linker.
type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"` // with "+dirty" if the checkout was; "unknown" outside of one
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func readVersion() versionInfo {
	v := versionInfo{Version: "devel", Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+dirty"
			}
		}
	}
	v.Commit += dirty
	return v
}

func version() string { return readVersion().Version }
