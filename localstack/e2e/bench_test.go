package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// TestBench measures what spool costs against what it could cost at best, each pair side by side in one run, and
// prints one table. It fails where a result is wrong, not where a figure misses its goal: the machine may be busy. The
// table and bench.json, and the plots of docs/PERFORMANCE.md, which explains every row, are written to the folder that
// SPOOL_BENCH names. SPOOL_BENCH_LINES makes the largest file smaller than a million lines.
//
//	make bench BENCH=Slots
func TestBench(t *testing.T) {
	dir := os.Getenv("SPOOL_BENCH")
	if dir == "" {
		t.Skip("takes 45 min: make bench")
	}
	b := &bench{dir: dir, large: 1_000_000}
	if n, err := strconv.Atoi(os.Getenv("SPOOL_BENCH_LINES")); err == nil {
		b.large = n
	}
	t.Cleanup(func() { b.write(t) })
	t.Run("Validation", b.validation)
	t.Run("Watcher", b.watcher)
	t.Run("Output", b.output)
	t.Run("Client", b.client)
	t.Run("Drop", b.drop)
	t.Run("Start", b.start)
	t.Run("Small", b.small)
	t.Run("Behind", b.behind)
	t.Run("Growth", b.growth)
	t.Run("Slots", b.slots)
	t.Run("Order", b.order)
	t.Run("Fleet", b.fleet)
	t.Run("Sinks", b.sinks)
	t.Run("VLLM", b.vllm)
	t.Run("Prefix", b.prefix)
}

// bench collects rows.
type bench struct {
	dir   string
	large int // lines
	rows  []row
}

// row is one figure of the table.
type row struct {
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Goal  string   `json:"goal"`  // ">= 0.99"; "" if none is promised
	Limit *float64 `json:"limit"` // what the machine, or the input, lets anybody reach; null if nothing is known
	Pass  *bool    `json:"pass"`  // null without a goal
	note  string   // what the figure is made of
}

// goal is a promise of a figure.
type goal struct {
	least bool // else it is the most
	bound float64
}

func atLeast(v float64) goal { return goal{true, v} }
func atMost(v float64) goal  { return goal{false, v} }

func (g goal) met(v float64) bool {
	if g.least {
		return v >= g.bound
	}
	return v <= g.bound
}

func (g goal) String() string {
	if g.least {
		return fmt.Sprintf(">= %g", g.bound)
	}
	return fmt.Sprintf("<= %g", g.bound)
}

// add adds a figure that nothing is promised of. A limit of 0 is not known.
func (b *bench) add(name string, value float64, unit string, limit float64, note string, args ...any) {
	r := row{Name: name, Value: value, Unit: unit, note: fmt.Sprintf(note, args...)}
	if limit != 0 {
		r.Limit = &limit
	}
	b.rows = append(b.rows, r)
}

// judge adds a figure with its goal.
func (b *bench) judge(name string, value float64, unit string, g goal, limit float64, note string, args ...any) {
	b.add(name, value, unit, limit, note, args...)
	r, pass := &b.rows[len(b.rows)-1], g.met(value)
	r.Goal, r.Pass = g.String(), &pass
}

func (b *bench) write(t *testing.T) {
	table := b.table()
	t.Log("\n" + table)
	text, err := json.MarshalIndent(b.rows, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b.save(t, "bench.json", append(text, '\n'))
	b.save(t, "bench.txt", []byte(table))
}

func (b *bench) save(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, name), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) table() string {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tvalue\tunit\tgoal\tlimit\tpass\tof what")
	for _, r := range b.rows {
		limit, pass := "", ""
		if r.Limit != nil {
			limit = digits(*r.Limit)
		}
		if r.Pass != nil {
			pass = map[bool]string{true: "pass", false: "MISSED"}[*r.Pass]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, digits(r.Value), r.Unit, r.Goal, limit, pass, r.note)
	}
	w.Flush()
	return buf.String()
}

// digits writes a number with the digits that mean something: four.
func digits(v float64) string {
	if v == 0 {
		return "0"
	}
	after := max(0, 3-int(math.Floor(math.Log10(math.Abs(v)))))
	return strconv.FormatFloat(v, 'f', min(after, 6), 64)
}

// series is a figure that was measured several times.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// by divides by another series, value by value.
func (s series) by(other series) series {
	quotients := make(series, len(s))
	for i := range s {
		quotients[i] = s[i] / other[i]
	}
	return quotients
}

func (s series) String() string {
	return fmt.Sprintf("%s (%s to %s, n = %d)", digits(s.median()), digits(slices.Min(s)), digits(slices.Max(s)), len(s))
}

// cpu is the CPU time of a process, in seconds; the kernel counts that of others in hundredths.
func cpu(pid int) float64 {
	if pid == os.Getpid() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
			return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
	}
	fields := procStat(pid)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// peakRSS is the most memory that a process had, in MiB.
func peakRSS(pid int) float64 {
	_, rest, _ := strings.Cut(procFile(fmt.Sprintf("%d/status", pid)), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, _ := strconv.ParseFloat(kib, 64)
	return n / 1024
}

// childOf finds the child of a process that runs a command of spool.
func childOf(t *testing.T, parent int, command string) int {
	t.Helper()
	for pid, runs := range children(t, parent) {
		if runs == command {
			return pid
		}
	}
	t.Fatalf("process %d has no child that runs spool %s", parent, command)
	return 0
}
