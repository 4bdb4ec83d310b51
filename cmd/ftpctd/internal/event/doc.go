// Package event limits the log lines about events that a host on the network can cause
// at will.
package event
