package sqlstore

import (
	"fmt"
	"strings"
)

// Migrations returns the schema as a list of scripts, one for each of its
// versions and the oldest first, or an error that lists the faults of the config.
// A script may consist of several statements and may run again without harm.
//
// A service that has a migration tool gives each script to it once: later
// versions of this package only add scripts at the end. Another one runs them all
// in order before it begins to work, each by one call of Exec without arguments;
// its instances may do that at one time.
//
// The service itself needs the rights to read, insert, update and delete rows, and
// on PostgreSQL to use the sequence.
func Migrations(config Config) ([]string, error) {
	if faults := config.faults(); len(faults) > 0 {
		return nil, fmt.Errorf("sqlstore: config: %s", strings.Join(faults, "; "))
	}
	scripts := postgresSchema()
	if config.Dialect == SQLite {
		scripts = sqliteSchema()
	}
	for i, s := range scripts {
		scripts[i] = expand(s, config.table(), "")
	}
	return scripts, nil
}
