-- What happened, for clients that come back. Only the last events are kept; numbers are given by the daemon and never used again.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    event TEXT NOT NULL
) STRICT;
