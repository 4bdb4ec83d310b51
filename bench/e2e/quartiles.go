package main

import (
	"slices"
	"time"
)

// quartiles is the median of some values and the middle half of them.
type quartiles struct {
	Median float64 `json:"median"`
	Lower  float64 `json:"lower_quartile"`
	Upper  float64 `json:"upper_quartile"`
}

// quartilesOf sorts the values; without any they are zero.
func quartilesOf(values []float64) quartiles {
	slices.Sort(values)
	return quartiles{Median: quantile(values, 0.5), Lower: quantile(values, 0.25), Upper: quantile(values, 0.75)}
}

// quantile interpolates between the two sorted values around the place q, from 0
// for the least to 1 for the greatest.
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

// percentile returns the smallest of the sorted values that p percent of them do
// not exceed; 0 without any.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}
