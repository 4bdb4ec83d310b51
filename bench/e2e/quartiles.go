package main

import (
	"slices"
	"time"
)

// quartiles are the median and the quartiles of some values.
type quartiles struct {
	Median float64 `json:"median"`
	Lower  float64 `json:"lower_quartile"`
	Upper  float64 `json:"upper_quartile"`
}

// quartilesOf returns the quartiles of the values, or zeros if there are none. It sorts
// the values.
func quartilesOf(values []float64) quartiles {
	slices.Sort(values)
	return quartiles{Median: quantile(values, 0.5), Lower: quantile(values, 0.25), Upper: quantile(values, 0.75)}
}

// quantile returns the q-quantile of sorted values, from 0 for the minimum to 1 for
// the maximum, interpolated linearly.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	place := q * float64(len(sorted)-1)
	i := int(place)
	if i == len(sorted)-1 {
		return sorted[i]
	}
	return sorted[i] + (place-float64(i))*(sorted[i+1]-sorted[i])
}

// percentile returns the smallest of the sorted values that at least p percent of them
// do not exceed, or 0 if there are none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}
