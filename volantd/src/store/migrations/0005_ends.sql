-- How often a VM ended in a row without being stable in between, and how long the end that it was asked for may take: a daemon that starts
-- anew goes on counting, and ends a VM as its user asked.
ALTER TABLE vms ADD COLUMN quick_ends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN grace_ms INTEGER;
