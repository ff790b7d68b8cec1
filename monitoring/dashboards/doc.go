// Package dashboards makes the Grafana dashboards: Batch Processing, GPU Monitoring and System Health. Panels are data;
// the JSON files beside it are made of them by `go test ./monitoring/dashboards -update`. No program links it.
//
// Totals are sums of the highest value of each process in the range, less what it had before, never of increase(): a process
// is a series of its own that only rises, and increase() misses what was counted before the first scrape and extrapolates at
// the edges.
package dashboards
