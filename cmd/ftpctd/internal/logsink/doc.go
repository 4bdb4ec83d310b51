// Package logsink is a log writer that never waits for the reader of the log.
package logsink
