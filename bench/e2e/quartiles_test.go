package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestQuartiles(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		want   quartiles
	}{
		{"none", nil, quartiles{}},
		{"one", []float64{3}, quartiles{Median: 3, Lower: 3, Upper: 3}},
		{"two", []float64{4, 2}, quartiles{Median: 3, Lower: 2.5, Upper: 3.5}},
		{"odd", []float64{5, 1, 4, 2, 3}, quartiles{Median: 3, Lower: 2, Upper: 4}},
		{"even", []float64{8, 2, 6, 4}, quartiles{Median: 5, Lower: 3.5, Upper: 6.5}},
		{"an outlier", []float64{1, 1, 1, 1, 1000}, quartiles{Median: 1, Lower: 1, Upper: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, quartilesOf(tt.values)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		name   string
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{"none", nil, 50, 0},
		{"one", []time.Duration{7}, 99, 7},
		{"median of two", []time.Duration{1, 2}, 50, 1},
		{"median of three", []time.Duration{1, 2, 3}, 50, 2},
		{"99 of two", []time.Duration{1, 2}, 99, 2},
		{"50 of a hundred", hundred, 50, 50},
		{"99 of a hundred", hundred, 99, 99},
		{"100 of a hundred", hundred, 100, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := percentile(tt.sorted, tt.p); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
