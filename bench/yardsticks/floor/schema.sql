-- Whatever grows for ever has one random key, because somebody outside chose it, and BRIN on time.
-- Rows that are changed leave room on their page (fillfactor), and no index holds what is changed:
-- the change stays on its page (HOT) and touches no index.
CREATE TABLE events (
    event_id text PRIMARY KEY,
    received_at timestamptz NOT NULL,
    body bytea NOT NULL
);
-- A body compressed by pglz costs the server 40 us, by lz4 16; not every build has lz4.
DO $$ BEGIN
    ALTER TABLE events ALTER body SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

CREATE TABLE payments (
    id uuid PRIMARY KEY,
    accepted_at timestamptz NOT NULL,
    posted_at timestamptz,
    confirmed_at timestamptz,
    amount_cents bigint NOT NULL CHECK (amount_cents > 0),
    effective_date date NOT NULL,
    account text NOT NULL,
    currency text NOT NULL,
    reference text NOT NULL,
    outcome text,
    cis_reference text
) WITH (fillfactor = 40);
CREATE INDEX payments_accepted ON payments USING brin (accepted_at) WITH (pages_per_range = 32);

CREATE TABLE postings (
    id uuid PRIMARY KEY,
    taken_at timestamptz NOT NULL,
    status text,
    account text NOT NULL,
    payment bytea NOT NULL,
    fact bytea
) WITH (fillfactor = 35);
CREATE INDEX postings_taken ON postings USING brin (taken_at) WITH (pages_per_range = 32);

CREATE TABLE notifications (
    id uuid PRIMARY KEY,
    taken_at timestamptz NOT NULL,
    settled_at timestamptz,
    status text,
    account text NOT NULL,
    posting bytea NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX notifications_taken ON notifications USING brin (taken_at) WITH (pages_per_range = 32);

CREATE TABLE contacts (account text PRIMARY KEY, name text NOT NULL, email text);

-- An outbox names what is to be announced; the fact itself is made from the row that it names.
CREATE TABLE payments_outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL);
CREATE TABLE postings_outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL);
CREATE TABLE notifications_outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL);

-- Everything that was taken before `at` has come to its end: where a restart begins to look.
CREATE TABLE watermarks (stage text PRIMARY KEY, at timestamptz NOT NULL);
