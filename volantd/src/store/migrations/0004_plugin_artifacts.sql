-- Artifacts that somebody keeps for a version of a plugin, beside the one that the installed manifest names. The plugin need not be
-- installed yet: an install of a manifest that names one of these digests needs no download.
CREATE TABLE plugin_artifacts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plugin TEXT NOT NULL,
    version TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    artifact TEXT NOT NULL REFERENCES artifacts (digest),
    pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
    source_url TEXT NOT NULL,
    format TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (plugin, version, name)
) STRICT;

CREATE INDEX plugin_artifacts_by_artifact ON plugin_artifacts (artifact);

-- What requests with an idempotency key were answered.
CREATE TABLE answers (
    key TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    answered_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX answers_by_age ON answers (answered_at_ms);
