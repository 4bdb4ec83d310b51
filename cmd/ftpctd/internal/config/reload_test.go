package config_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/cmd/ftpctd/internal/config"
)

// leaf is a field of Config, or of a struct in it, by its index path.
type leaf struct {
	name  string
	index []int
}

func leaves(typ reflect.Type, under leaf) (all []leaf) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		l := leaf{under.name + "." + f.Name, append(append([]int(nil), under.index...), i)}
		if f.Type.Kind() == reflect.Struct {
			all = append(all, leaves(f.Type, l)...)
		} else {
			all = append(all, l)
		}
	}
	return all
}

// change gives a field another value.
func change(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(v.Uint() ^ 1)
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	default:
		t.Fatalf("cannot change a %s", v.Kind())
	}
}

// TestReloadEach makes sure that no setting is lost: each that differs is either
// reloaded or named.
func TestReloadEach(t *testing.T) {
	for _, l := range leaves(reflect.TypeFor[config.Config](), leaf{}) {
		t.Run(l.name, func(t *testing.T) {
			running, next := config.Default(), config.Default()
			change(t, reflect.ValueOf(&next).Elem().FieldByIndex(l.index))
			reloaded, restart := running.Reload(next)
			want := next
			if len(restart) > 0 {
				want = running
			}
			if diff := cmp.Diff(want, reloaded); diff != "" || len(restart) > 1 {
				t.Errorf("restart for %q, reloaded (-want +got):\n%s", restart, diff)
			}
		})
	}
}

func TestReload(t *testing.T) {
	parse := func(doc string) config.Config {
		c, err := config.Parse("ftpctd.toml", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	tests := []struct {
		name, running, next string
		want                string // what is in force then
		restart             []string
	}{
		{name: "nothing new", running: "ports = [21, 2121]", next: "ports = [21, 2121]", want: "ports = [21, 2121]"},
		{
			name: "policy and level", next: "min_port = 2000\nrequire_login = false\n[passive]\naddress = \"strict\"\nports = \"30000-30999\"\n[active]\nenabled = false\nports = \"5000-6000\"\n[log]\nlevel = \"debug\"",
			want: "min_port = 2000\nrequire_login = false\n[passive]\naddress = \"strict\"\nports = \"30000-30999\"\n[active]\nenabled = false\nports = \"5000-6000\"\n[log]\nlevel = \"debug\"",
		},
		{name: "both", next: "min_port = 2000\nports = [2121]\n[queue]\nnum = 7", want: "min_port = 2000", restart: []string{"ports", "queue.num"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, restart := parse(tt.running).Reload(parse(tt.next))
			if diff := cmp.Diff(parse(tt.want), got); diff != "" {
				t.Errorf("reloaded (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(fmt.Sprint(tt.restart), fmt.Sprint(restart)); diff != "" {
				t.Errorf("restart (-want +got):\n%s", diff)
			}
		})
	}
}
