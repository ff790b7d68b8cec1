package runner

import "testing"

func TestMemoryOfTheHostIsRead(t *testing.T) {
	total, available, ok := readMemory("MemTotal:       16384 kB\nMemFree:          100 kB\nMemAvailable:    4096 kB\n")
	if total != 16<<20 || available != 4<<20 || !ok {
		t.Errorf("%v bytes, %v available, %t; want 16 MiB, 4 MiB", total, available, ok)
	}
	for _, text := range []string{"", "MemTotal: 1 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n"} {
		if _, _, ok := readMemory(text); ok {
			t.Errorf("%q was taken for memory", text)
		}
	}
}

func TestTimeOfTheHostIsRead(t *testing.T) {
	seconds, ok := readBusy("cpu  100 200 300 9000 9000 400 500 600 50 50\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if seconds != 21 || !ok {
		t.Errorf("%v s, %t; want 21: idle and waiting are none", seconds, ok)
	}
	for _, text := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 3 4 5 6 7 x 9"} {
		if _, ok := readBusy(text); ok {
			t.Errorf("%q was taken for times", text)
		}
	}
}

func TestMetricsKnowTheHost(t *testing.T) {
	got := map[string]float64{}
	collectHost(func(name string, v float64, _ ...string) { got[name] = v }, t.TempDir())
	for _, name := range hostMetrics() {
		if got[name] <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	if len(got) != len(hostMetrics()) {
		t.Errorf("metrics %v, want %v", got, hostMetrics())
	}
}
