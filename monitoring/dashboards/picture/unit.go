package picture

import (
	"math"
	"strconv"
)

// scale is one name of a unit, and what it is worth.
type scale struct {
	worth float64
	name  string
}

// scales are the names of Grafana's units, the largest first; values below all of them have the last.
func scales(unit string) []scale {
	switch unit {
	case "s":
		return []scale{{86400, " d"}, {3600, " h"}, {60, " min"}, {1, " s"}, {1e-3, " ms"}, {1e-6, " µs"}}
	case "bytes":
		return []scale{{1 << 40, " TiB"}, {1 << 30, " GiB"}, {1 << 20, " MiB"}, {1 << 10, " KiB"}, {1, " B"}}
	case "Bps":
		return []scale{{1e9, " GB/s"}, {1e6, " MB/s"}, {1e3, " kB/s"}, {1, " B/s"}}
	case "percentunit":
		return []scale{{0.01, "%"}}
	case "celsius":
		return []scale{{1, " °C"}}
	case "watt":
		return []scale{{1e3, " kW"}, {1, " W"}}
	case "joule":
		return []scale{{1e6, " MJ"}, {1e3, " kJ"}, {1, " J"}}
	}
	return []scale{{1e9, " G"}, {1e6, " M"}, {1e3, " K"}, {1, ""}}
}

// number writes a value with three digits and the name of its unit.
func number(v float64, unit string) string { return write(v, scaleOf(v, unit)) }

func scaleOf(v float64, unit string) scale {
	list := scales(unit)
	for _, s := range list {
		if math.Abs(v) >= s.worth {
			return s
		}
	}
	if unit == "s" {
		return scale{1, " s"} // 0
	}
	return list[len(list)-1]
}

func write(v float64, s scale) string {
	v /= s.worth
	digits := 0
	for a := math.Abs(v); a < 100 && digits < 4 && a != math.Trunc(a); a *= 10 {
		digits++
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		text = strconv.FormatFloat(f, 'f', -1, 64) // without zeros at the end
	}
	return text + s.name
}

// ticks are round values between which and 0 a chart is laid, up to the first that is not below top.
func ticks(top float64, unit string) []float64 {
	if top <= 0 {
		top = 1
	}
	worth := scaleOf(top, unit).worth
	step := math.Pow(10, math.Floor(math.Log10(top/worth/3)))
	for _, m := range []float64{1, 2, 5, 10} {
		if top/worth <= 4*m*step {
			step *= m
			break
		}
	}
	var list []float64
	for i := 0; ; i++ {
		list = append(list, float64(i)*step*worth)
		if float64(i)*step*worth >= top*(1-1e-9) && i > 0 {
			return list
		}
	}
}
