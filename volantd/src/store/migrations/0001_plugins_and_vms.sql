-- Files in the artifact store, by the SHA-256 of their content.
CREATE TABLE artifacts (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    added_at TEXT NOT NULL
) STRICT;

CREATE TABLE plugins (
    name TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    manifest TEXT NOT NULL,
    artifact TEXT NOT NULL REFERENCES artifacts (digest),
    pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
    source_url TEXT NOT NULL,
    installed_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE INDEX plugins_by_artifact ON plugins (artifact);

-- A VM does not refer to its plugin's row: it has the manifest as it was, and outlives the plugin.
-- AUTOINCREMENT: the number of a VM that is gone is never given to another.
CREATE TABLE vms (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    plugin TEXT NOT NULL,
    manifest TEXT NOT NULL,
    artifact TEXT NOT NULL REFERENCES artifacts (digest),
    cpu_cores INTEGER NOT NULL CHECK (cpu_cores > 0),
    memory_mib INTEGER NOT NULL CHECK (memory_mib > 0),
    extra_cmdline TEXT NOT NULL,
    api_host TEXT,
    api_port INTEGER,
    ip TEXT NOT NULL UNIQUE,
    mac TEXT NOT NULL UNIQUE,
    tap TEXT NOT NULL UNIQUE,
    cid INTEGER NOT NULL UNIQUE,
    secret TEXT NOT NULL,
    created_at TEXT NOT NULL,
    -- How far it is: from here on everything changes together.
    desired TEXT NOT NULL CHECK (desired IN ('running', 'stopped', 'deleted')),
    phase TEXT NOT NULL,
    steps_begun TEXT NOT NULL,
    launch TEXT,
    instance TEXT,
    restarts INTEGER NOT NULL,
    proven INTEGER NOT NULL CHECK (proven IN (0, 1)),
    failure TEXT,
    boot TEXT,
    generation INTEGER NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE INDEX vms_by_artifact ON vms (artifact);
