-- Times are microseconds since 1970-01-01 UTC. Ids and keys are text, as the protocol writes them.

-- One row: which life of the database this is.
CREATE TABLE meta (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    epoch BIGINT  NOT NULL
);
INSERT INTO meta (id, epoch) VALUES (1, 1);

CREATE TABLE join_code (
    id          TEXT    PRIMARY KEY,
    secret_hash TEXT    NOT NULL,
    tags        TEXT    NOT NULL,
    note        TEXT    NOT NULL,
    max_uses    BIGINT  NOT NULL CHECK (max_uses > 0),
    uses        BIGINT  NOT NULL DEFAULT 0 CHECK (uses >= 0 AND uses <= max_uses),
    created_at  BIGINT  NOT NULL,
    expires_at  BIGINT  NOT NULL,
    revoked_at  BIGINT
);

CREATE TABLE device (
    id               TEXT   PRIMARY KEY,
    name             TEXT   NOT NULL UNIQUE,
    noise_key        TEXT   NOT NULL UNIQUE,
    wireguard_key    TEXT   NOT NULL UNIQUE,
    -- The IPv4 address as a number, so that the lowest free one is found in SQL.
    inner_ipv4       BIGINT NOT NULL UNIQUE,
    tags             TEXT   NOT NULL,
    join_code        TEXT   NOT NULL REFERENCES join_code (id),
    created_at       BIGINT NOT NULL,
    revoked_at       BIGINT,
    session_epoch    BIGINT NOT NULL DEFAULT 0,
    last_seen_at     BIGINT,
    -- Which desired state stands, and the digest of its content.
    desired_epoch    BIGINT NOT NULL,
    desired_revision BIGINT NOT NULL DEFAULT 0,
    desired_digest   TEXT
);

-- Apart from `device`, because it is large and changes often.
CREATE TABLE device_observed (
    device      TEXT   PRIMARY KEY REFERENCES device (id),
    state       TEXT   NOT NULL,
    observed_at BIGINT NOT NULL
);

-- The inner address that stands for a name of the policy; kept when the name goes, so that it never
-- comes to mean another.
CREATE TABLE policy_address (
    name       TEXT   PRIMARY KEY,
    inner_ipv4 BIGINT NOT NULL UNIQUE
);
