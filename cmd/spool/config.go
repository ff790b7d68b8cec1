package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"spool/runner"
	"spool/runner/vllm"
	"spool/storage/batch"
	"spool/storage/batch/jsonl"
	"spool/watcher"
)

// fileConfig is the file of --config.
type fileConfig struct {
	Pools map[string]poolConfig `yaml:"pools"`
}

// poolConfig is one pool; what is left out has the defaults of watcher.Pool, jsonl.Config and
// runner.RetryPolicy.
type poolConfig struct {
	Prefixes    []string     `yaml:"prefixes"`     // of input keys that mean this pool; the longest of all pools wins
	ShardChunks int          `yaml:"shard_chunks"` // chunks a shard
	Limits      limitConfig  `yaml:"limits"`
	Retry       retryConfig  `yaml:"retry"`
	Engine      engineConfig `yaml:"engine"` // that runners start themselves, without --engine-url
}

type limitConfig struct {
	Endpoints  []string `yaml:"endpoints"` // urls that lines may name
	LineBytes  int      `yaml:"line_bytes"`
	InputBytes int64    `yaml:"input_bytes"` // decompressed
	N          int64    `yaml:"n"`           // cap on body.n
	Tokens     int64    `yaml:"tokens"`      // cap on body.max_tokens and its like
}

type retryConfig struct {
	Attempts int           `yaml:"attempts"`
	Base     time.Duration `yaml:"base"`
	Max      time.Duration `yaml:"max"`
	AfterMax time.Duration `yaml:"retry_after_max"`
	Timeout  time.Duration `yaml:"timeout"` // of one request
}

// readConfig reads the file of --config; without one there is the pool default alone.
func readConfig(c *cli.Context) (*fileConfig, error) {
	cfg := &fileConfig{Pools: map[string]poolConfig{}}
	path := c.String("config")
	if path != "" {
		if err := cfg.read(path); err != nil {
			return nil, failf(exitUsage, "", "%w", err)
		}
	}
	if _, ok := cfg.Pools[watcher.DefaultPool]; !ok {
		cfg.Pools[watcher.DefaultPool] = poolConfig{} // what names no pool needs one
	}
	return cfg, nil
}

func (f *fileConfig) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	defer file.Close()
	dec := yaml.NewDecoder(file)
	dec.KnownFields(true)
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return located(path, err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one YAML document", path)
	}
	if f.Pools == nil {
		f.Pools = map[string]poolConfig{}
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// poolName leaves room in a queue's name, of up to 80 letters, digits, - and _ (SQS, CreateQueue), for what stands
// around it.
var poolName = regexp.MustCompile(`^[0-9A-Za-z_-]{1,69}$`)

// check refuses what would never have an effect, or fail later. Limits are checked by who uses them.
func (f *fileConfig) check() error {
	owner := map[string]string{} // of a prefix
	for _, name := range f.names() {
		p := f.Pools[name]
		if !poolName.MatchString(name) {
			return fmt.Errorf("pool %q: a name has up to 69 letters, digits, - and _", name)
		}
		if p.ShardChunks < 0 {
			return fmt.Errorf("pool %q: shard_chunks must not be negative", name)
		}
		if r := p.Retry; min(r.Base, r.Max, r.AfterMax, r.Timeout, time.Duration(r.Attempts)) < 0 {
			return fmt.Errorf("pool %q: values of retry must not be negative", name)
		}
		if p.Engine.Model != "" {
			if _, err := vllm.NewServer(p.Engine.vllm(nil, nil)); err != nil {
				return fmt.Errorf("pool %q: engine: %w", name, err)
			}
		} else if !reflect.DeepEqual(p.Engine, engineConfig{}) {
			return fmt.Errorf("pool %q: engine: without a model, the rest has no effect", name)
		}
		for _, prefix := range p.Prefixes {
			if !strings.HasPrefix(prefix, batch.InPrefix) {
				return fmt.Errorf("pool %q: prefix %q: inputs are under %s", name, prefix, batch.InPrefix)
			}
			if other, ok := owner[prefix]; ok {
				return fmt.Errorf("pool %q: prefix %q is that of pool %q already", name, prefix, other)
			}
			owner[prefix] = name
		}
	}
	return nil
}

// yamlLine and unknownField are how the yaml package words its errors.
var (
	yamlLine     = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)
	unknownField = regexp.MustCompile(`field (\S+) not found in type .*`)
)

// located writes the errors of the yaml package as file:line: what, one a line.
func located(path string, err error) error {
	texts := []string{err.Error()}
	if e, ok := errors.AsType[*yaml.TypeError](err); ok {
		texts = texts[:0]
		for _, one := range e.Errors {
			texts = append(texts, fmt.Sprint(one))
		}
	}
	for i, text := range texts {
		text = unknownField.ReplaceAllString(text, `unknown key "$1"`)
		if yamlLine.MatchString(text) {
			text = yamlLine.ReplaceAllString(text, path+":$1: ")
		} else {
			text = path + ": " + text
		}
		texts[i] = text
	}
	return errors.New(strings.Join(texts, "\n"))
}

// pool gives one pool, or an error that names those that there are.
func (f *fileConfig) pool(name string) (poolConfig, error) {
	p, ok := f.Pools[name]
	if !ok {
		return p, usagef("there is no pool %q: the pools are %s (--config)", name, strings.Join(f.names(), ", "))
	}
	return p, nil
}

func (f *fileConfig) names() []string { return slices.Sorted(maps.Keys(f.Pools)) }

// watched gives the pools to the watcher.
func (f *fileConfig) watched() []watcher.Pool {
	var pools []watcher.Pool
	for _, name := range f.names() {
		p := f.Pools[name]
		pools = append(pools, watcher.Pool{Name: name, Prefixes: p.Prefixes, ShardChunks: p.ShardChunks, Limits: p.Limits.jsonl()})
	}
	return pools
}

func (l limitConfig) jsonl() jsonl.Config {
	return jsonl.Config{Endpoints: l.Endpoints, MaxLineBytes: l.LineBytes, MaxInputBytes: l.InputBytes, MaxN: l.N, MaxTokens: l.Tokens}
}

func (r retryConfig) policy() runner.RetryPolicy {
	return runner.RetryPolicy{Attempts: r.Attempts, Base: r.Base, Max: r.Max, AfterMax: r.AfterMax, Timeout: r.Timeout}
}
