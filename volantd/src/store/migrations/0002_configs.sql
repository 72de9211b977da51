-- Every version of every VM's configuration that is kept. A version names the artifact that it boots, so that a VM can go back to it
-- without a download.
CREATE TABLE vm_configs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    vm INTEGER NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    version INTEGER NOT NULL CHECK (version > 0),
    config TEXT NOT NULL,
    artifact TEXT NOT NULL REFERENCES artifacts (digest),
    updated_at TEXT NOT NULL,
    UNIQUE (vm, version)
) STRICT;

CREATE INDEX vm_configs_by_artifact ON vm_configs (artifact);

-- What a VM was made of becomes version 1 of its configuration; the rest of its row stays. Nothing refers to `vms` yet, so it can be
-- made anew. A column that refers to another table cannot be dropped.
CREATE TABLE vms_2 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
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
    -- The version of the configuration that the present launch has.
    launched_version INTEGER,
    instance TEXT,
    restarts INTEGER NOT NULL,
    proven INTEGER NOT NULL CHECK (proven IN (0, 1)),
    failure TEXT,
    boot TEXT,
    generation INTEGER NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE TEMP TABLE configs_1 AS
SELECT id, artifact, created_at, json_patch(
    json_object(
        'plugin', plugin,
        'runtime', json_extract(manifest, '$.runtime'),
        'manifest', json(manifest),
        'resources', json_object('cpu_cores', cpu_cores, 'memory_mb', memory_mib)
    ),
    -- A null in a patch is a member that is not there.
    json_object(
        'kernel_cmdline', nullif(extra_cmdline, ''),
        'api', CASE WHEN api_host IS NULL THEN NULL ELSE json_object('host', api_host, 'port', api_port) END
    )
) AS config
FROM vms;

INSERT INTO vms_2 (id, name, ip, mac, tap, cid, secret, created_at, desired, phase, steps_begun, launch, launched_version,
    instance, restarts, proven, failure, boot, generation, updated_at)
SELECT id, name, ip, mac, tap, cid, secret, created_at, desired, phase, steps_begun, launch, CASE WHEN launch IS NULL THEN NULL ELSE 1 END,
    instance, restarts, proven, failure, boot, generation, updated_at
FROM vms ORDER BY id;

-- The numbers of VMs that are gone stay used.
DELETE FROM sqlite_sequence WHERE name = 'vms_2';
INSERT INTO sqlite_sequence (name, seq) SELECT 'vms_2', seq FROM sqlite_sequence WHERE name = 'vms';
DROP TABLE vms;
ALTER TABLE vms_2 RENAME TO vms;

INSERT INTO vm_configs (vm, version, config, artifact, updated_at)
SELECT id, 1, config, artifact, created_at FROM configs_1 ORDER BY id;
DROP TABLE configs_1;
