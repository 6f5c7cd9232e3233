-- One row: the random /48 of the tunnel's IPv6 addresses (RFC 4193), as the number that its first six bytes make. Made by
-- the program when it first opens this version.
CREATE TABLE site (
    id  INTEGER PRIMARY KEY CHECK (id = 1),
    ula BIGINT  NOT NULL
);

-- People's plain WireGuard clients. A peer that is removed goes, and its name, key and address are free again.
CREATE TABLE peer (
    name          TEXT   PRIMARY KEY,
    wireguard_key TEXT   NOT NULL UNIQUE,
    preshared_key TEXT,
    -- The IPv4 address as a number, as for devices.
    inner_ipv4    BIGINT NOT NULL UNIQUE,
    -- JSON: the only destinations of the policy that it may reach; NULL for all that policy gives people.
    allowed       TEXT,
    note          TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT
);

-- The one-time WireGuard key of a join code that is used through the tunnel, and its address there.
ALTER TABLE join_code ADD COLUMN tunnel_key TEXT;
ALTER TABLE join_code ADD COLUMN tunnel_ipv4 BIGINT;
CREATE UNIQUE INDEX join_code_tunnel_key ON join_code (tunnel_key);
CREATE UNIQUE INDEX join_code_tunnel_ipv4 ON join_code (tunnel_ipv4);
