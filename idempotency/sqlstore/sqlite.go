package sqlstore

import "time"

// sqliteNow is the time in milliseconds, which stands still within a statement.
const sqliteNow = "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER)"

// sqliteSchema is the schema, by version. SQLite has no sequences: the last token
// is a row, which outlives the records and which triggers keep.
func sqliteSchema() []string {
	return []string{`CREATE TABLE IF NOT EXISTS {table}_token (
	only INTEGER PRIMARY KEY CHECK (only = 1),
	last INTEGER NOT NULL
);
INSERT OR IGNORE INTO {table}_token VALUES (1, 0);
CREATE TABLE IF NOT EXISTS {table} (
	id          BLOB    PRIMARY KEY NOT NULL, -- SHA-256 of use, scope and key
	fingerprint BLOB    NOT NULL,    -- SHA-256 of what must be the same
	token       INTEGER NOT NULL,    -- the fencing token of the last claim
	attempt     INTEGER NOT NULL,    -- claims so far
	taken_over  INTEGER NOT NULL,    -- the owner before did not finish
	state       INTEGER NOT NULL,    -- 1 in progress, 2 released, 3 completed, 4 completed without result
	lease_until INTEGER NOT NULL,    -- milliseconds since 1970, as is the next
	expires_at  INTEGER NOT NULL,
	result      BLOB
);
CREATE INDEX IF NOT EXISTS {table}_expires_at ON {name} (expires_at);
CREATE TRIGGER IF NOT EXISTS {table}_first_token AFTER INSERT ON {name}
BEGIN UPDATE {name}_token SET last = NEW.token; END;
CREATE TRIGGER IF NOT EXISTS {table}_next_token AFTER UPDATE OF token ON {name}
BEGIN UPDATE {name}_token SET last = NEW.token; END;
`}
}

const (
	// sqliteLook answers from a record that gives the answer as it is.
	sqliteLook = `SELECT CASE WHEN fingerprint <> ?2 THEN 4 WHEN state = 1 THEN 2 ELSE 3 END, 0, 0, 0,
	lease_until - {now}, state = 4, CASE WHEN fingerprint = ?2 THEN result END
FROM {table}
WHERE id = ?1 AND expires_at > {now} AND (fingerprint <> ?2 OR state >= 3 OR state = 1 AND lease_until > {now})`

	// sqliteTake takes the record, if it may be taken.
	sqliteTake = `INSERT INTO {table} AS r (id, fingerprint, token, attempt, taken_over, state, lease_until, expires_at)
VALUES (?1, ?2, (SELECT last + 1 FROM {table}_token), 1, 0, 1, {now} + ?3, {now} + max(?3, ?4))
ON CONFLICT (id) DO UPDATE SET
	fingerprint = excluded.fingerprint,
	token = excluded.token,
	attempt = CASE WHEN r.expires_at <= {now} THEN 1 ELSE r.attempt + 1 END,
	taken_over = r.expires_at > {now} AND r.state = 1,
	state = 1,
	lease_until = excluded.lease_until,
	expires_at = excluded.expires_at,
	result = NULL
WHERE r.expires_at <= {now}
	OR r.fingerprint = excluded.fingerprint AND (r.state = 2 OR r.state = 1 AND r.lease_until <= {now})
RETURNING 1, token, attempt, taken_over, 0, 0, NULL`
)

// sqlite returns the statements for a table. Outside of a transaction a claim
// begins by reading, so that a replay needs no place in the queue of writers.
// Inside of one it begins by writing: a transaction that has read cannot become a
// writer any more once another one has written.
func sqlite(table string) dialect {
	const own = ` WHERE id = ?1 AND token = ?2 AND expires_at > {now}`
	e := func(text string) string { return expand(text, table, sqliteNow) }
	look, take := query{e(sqliteLook), 2}, query{e(sqliteTake), 4}
	complete := query{e(`UPDATE {table} SET state = ?3, result = ?4, expires_at = {now} + ?5` + own + ` AND state IN (1, 4)`), 5}
	return dialect{
		tick:       time.Millisecond,
		ask:        []query{look, take},
		askTx:      []query{take, look},
		complete:   complete,
		completeTx: complete,
		release:    e(`UPDATE {table} SET state = 2` + own + ` AND state IN (1, 2)`),
		extend:     e(`UPDATE {table} SET lease_until = {now} + ?3, expires_at = max(expires_at, {now} + ?3)` + own + ` AND state = 1`),
		state:      e(`SELECT state FROM {table}` + own),
		sweep:      e(`DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE expires_at <= {now} ORDER BY expires_at LIMIT ?1)`),
	}
}
