// Package config reads the configuration file of ftpctd.
//
// The file is TOML. Every key is optional. Unknown keys, wrong types and out-of-range
// values are reported as [Problem]s with their position, all at once. [Config] has
// the types of the packages that use a setting; what belongs to a key is in one table
// (schema.go).
package config
