package sqlstore

import "time"

// postgresNow moves on within a transaction, unlike now().
const postgresNow = "clock_timestamp()"

// postgresSchema is the schema, by version. IF NOT EXISTS alone fails where two
// create the same thing at one time, so the first statement takes turns: a script
// that is sent as one is one transaction.
func postgresSchema() []string {
	return []string{`SELECT pg_advisory_xact_lock(hashtext('sqlstore'), hashtext('{table}'));
CREATE SEQUENCE IF NOT EXISTS {table}_token;
CREATE TABLE IF NOT EXISTS {table} (
	id          bytea       PRIMARY KEY, -- SHA-256 of use, scope and key
	fingerprint bytea       NOT NULL,    -- SHA-256 of what must be the same
	token       bigint      NOT NULL,    -- the fencing token of the last claim
	attempt     integer     NOT NULL,    -- claims so far
	taken_over  boolean     NOT NULL,    -- the owner before did not finish
	state       smallint    NOT NULL,    -- 1 in progress, 2 released, 3 completed, 4 completed without result
	lease_until timestamptz NOT NULL,
	expires_at  timestamptz NOT NULL,
	result      bytea
);
CREATE INDEX IF NOT EXISTS {name}_expires_at ON {table} (expires_at);
`}
}

// postgresAcquire answers in one statement. Records that give the answer as they
// are ("closed") are only read. Else the lock of the key decides who may go on to
// the INSERT, which would wait for a transaction that has the row. The lock lasts
// until the end of the transaction, which outside of one is this statement. Locks
// are the whole database's, so the table is part of the number.
//
// The statement sees the database as it was when it began, but the INSERT meets
// the row as it is, and so does its WHERE: where they differ nothing is returned,
// and the caller asks again. The token of an update is drawn after the row is
// locked, so that it is larger than any that was handed out for it.
const postgresAcquire = `WITH old AS MATERIALIZED (
	SELECT fingerprint, state, lease_until, expires_at, result, {now} AS now FROM {table} WHERE id = $1::bytea
), closed AS MATERIALIZED (
	SELECT * FROM old WHERE expires_at > now AND (fingerprint <> $2::bytea OR state >= 3 OR state = 1 AND lease_until > now)
), lock AS MATERIALIZED (
	SELECT pg_try_advisory_xact_lock($5::bigint # '{table}'::regclass::oid::bigint) AS mine WHERE NOT EXISTS (SELECT FROM closed)
), taken AS (
	INSERT INTO {table} AS r (id, fingerprint, token, attempt, taken_over, state, lease_until, expires_at)
	SELECT $1::bytea, $2::bytea, nextval('{table}_token'), 1, false, 1,
		{now} + $3::bigint * interval '1 microsecond',
		{now} + greatest($3::bigint, $4::bigint) * interval '1 microsecond'
	FROM lock WHERE mine
	ON CONFLICT (id) DO UPDATE SET
		fingerprint = excluded.fingerprint,
		token = nextval('{table}_token'),
		attempt = CASE WHEN r.expires_at <= {now} THEN 1 ELSE r.attempt + 1 END,
		taken_over = r.expires_at > {now} AND r.state = 1,
		state = 1,
		lease_until = {now} + $3::bigint * interval '1 microsecond',
		expires_at = {now} + greatest($3::bigint, $4::bigint) * interval '1 microsecond',
		result = NULL
	WHERE r.expires_at <= {now}
		OR r.fingerprint = excluded.fingerprint AND (r.state = 2 OR r.state = 1 AND r.lease_until <= {now})
	RETURNING token, attempt, taken_over
)
SELECT 1, token, attempt, taken_over, 0::bigint, false, NULL::bytea FROM taken
UNION ALL
SELECT CASE WHEN fingerprint <> $2::bytea THEN 4 WHEN state = 1 THEN 2 ELSE 3 END, 0, 0, false,
	CASE WHEN state = 1 THEN ceil(extract(epoch FROM lease_until - now) * 1000000)::bigint ELSE 0 END,
	state = 4, CASE WHEN fingerprint = $2::bytea THEN result END
FROM closed
UNION ALL
SELECT 2, 0, 0, false, 0, false, NULL FROM lock WHERE NOT mine`

// postgres returns the statements for a table. That of completeTx takes the lock
// of the key before the row, so that no claim waits for the row. It may wait for
// the lock: of a claim, which takes an instant, or of an InTx that has taken over,
// after which it changes nothing.
func postgres(table string) dialect {
	const complete = `UPDATE {table} SET state = $3::smallint, result = $4::bytea,
	expires_at = {now} + $5::bigint * interval '1 microsecond'`
	const own = ` WHERE id = $1::bytea AND token = $2::bigint AND expires_at > {now}`
	e := func(text string) string { return expand(text, table, postgresNow) }
	acquire := []query{{e(postgresAcquire), 5}}
	return dialect{
		tick:       time.Microsecond,
		ask:        acquire,
		askTx:      acquire,
		complete:   query{e(complete + own + ` AND state IN (1, 4)`), 5},
		completeTx: query{e(`WITH lock AS MATERIALIZED (SELECT pg_advisory_xact_lock($6::bigint # '{table}'::regclass::oid::bigint)) ` + complete + ` FROM lock` + own + ` AND state IN (1, 4)`), 6},
		release:    e(`UPDATE {table} SET state = 2` + own + ` AND state IN (1, 2)`),
		extend: e(`UPDATE {table} SET lease_until = {now} + $3::bigint * interval '1 microsecond',
	expires_at = greatest(expires_at, {now} + $3::bigint * interval '1 microsecond')` + own + ` AND state = 1`),
		state: e(`SELECT state FROM {table}` + own),
		// The clock of the statement, which an index can be searched for. A subquery
		// in place of WITH may be run again for each row, which voids its LIMIT: that
		// is the plan for a table that was empty when it was last analysed.
		sweep: e(`WITH dead AS MATERIALIZED (
	SELECT id FROM {table} WHERE expires_at <= statement_timestamp()
	ORDER BY expires_at LIMIT $1::bigint FOR UPDATE SKIP LOCKED
) DELETE FROM {table} WHERE id IN (SELECT id FROM dead)`),
	}
}
