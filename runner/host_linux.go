package runner

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"spool/monitoring"
)

// collectHost tells how the machine is, as Linux says; what it does not say is absent.
func collectHost(emit monitoring.Emit, scratch string) {
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if total, available, ok := readMemory(string(text)); ok {
			emit("spool_host_memory_used_bytes", total-available)
			emit("spool_host_memory_available_bytes", available)
		}
	}
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		if seconds, ok := readBusy(string(text)); ok {
			emit("spool_host_cpu_seconds_total", seconds)
		}
	}
	var fs syscall.Statfs_t
	if syscall.Statfs(scratch, &fs) == nil {
		emit("spool_host_disk_free_bytes", float64(fs.Bavail)*float64(fs.Bsize))
	}
}

// readMemory reads /proc/meminfo; values are in KiB.
func readMemory(text string) (total, available float64, ok bool) {
	found := 0
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		to := map[string]*float64{"MemTotal": &total, "MemAvailable": &available}[name]
		if to == nil {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		if err != nil {
			return 0, 0, false
		}
		*to, found = n*1024, found+1
	}
	return total, available, found == 2
}

// ticks are a second of /proc/stat, whatever the kernel's own clock.
const ticks = 100

// readBusy sums up what all processors did since the machine started: the first line of /proc/stat is cpu user nice system idle
// iowait irq softirq steal, and what user and nice hold already.
func readBusy(text string) (seconds float64, ok bool) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return 0, false
		}
		seconds += n / ticks
	}
	return seconds, true
}
