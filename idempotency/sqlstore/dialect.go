package sqlstore

import (
	"strings"
	"time"
)

// Dialect is a kind of database.
type Dialect string

// The dialects.
const (
	// PostgreSQL is version 12 or newer, through any driver that numbers its
	// parameters $1.
	PostgreSQL Dialect = "postgresql"
	// SQLite is version 3.42 or newer.
	SQLite Dialect = "sqlite"
)

// States of a record, as they are stored. The schema's comments and the
// statements have the numbers.
const (
	inProgress = iota + 1
	released
	completed
	notStored
)

// query is a statement and how many of its caller's arguments it takes.
type query struct {
	text string
	args int
}

// dialect is what differs between the kinds of databases.
type dialect struct {
	tick time.Duration // the unit of durations in statements

	// ask are the statements of Acquire, of which the first that returns a row
	// answers; askTx those inside a transaction. Their arguments are the ID, the
	// fingerprint, lease, TTL and the number of the lock.
	ask, askTx []query

	// complete and completeTx take ID, token, state, result, TTL and the number of
	// the lock; release, ID and token; extend, ID, token and lease; state, ID and
	// token; sweep, the limit.
	complete, completeTx          query
	release, extend, state, sweep string
}

func (c Config) table() string {
	if c.Table == "" {
		return defaultTable
	}
	return c.Table
}

func (c Config) dialect() dialect {
	if c.Dialect == SQLite {
		return sqlite(c.table())
	}
	return postgres(c.table())
}

// faults returns what is wrong with what New and Migrations both need.
func (c Config) faults() (faults []string) {
	switch c.Dialect {
	case PostgreSQL, SQLite:
	case "":
		faults = append(faults, "the Dialect is not set")
	default:
		faults = append(faults, "the Dialect is neither PostgreSQL nor SQLite")
	}
	if !isTable(c.table()) {
		faults = append(faults, "the Table is not one or two words of lower-case letters, digits and underscores, of up to 50 characters")
	}
	return faults
}

// isTable reports whether a name needs no quotes, and leaves room for the suffixes
// of indexes within the 63 bytes of PostgreSQL.
func isTable(name string) bool {
	words := strings.Split(name, ".")
	if len(words) > 2 {
		return false
	}
	for _, w := range words {
		if w == "" || len(w) > 50 || w[0] >= '0' && w[0] <= '9' {
			return false
		}
		for i := range len(w) {
			if c := w[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
				return false
			}
		}
	}
	return true
}

// expand puts the table, its name without schema and the clock into a statement.
func expand(text, table, now string) string {
	return strings.NewReplacer(
		"{table}", table,
		"{name}", table[strings.IndexByte(table, '.')+1:],
		"{now}", now,
	).Replace(text)
}
