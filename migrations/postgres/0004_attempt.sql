-- One process that worked on a run: the first, or one that resumed it.
CREATE TABLE attempt (
    run_id       BIGINT NOT NULL REFERENCES run (id),
    lease_epoch  BIGINT NOT NULL,
    host         TEXT COLLATE "C" NOT NULL,
    boot_id      TEXT NOT NULL,
    pid          BIGINT NOT NULL,
    pid_start    BIGINT NOT NULL,
    cpu          TEXT NOT NULL,
    threads      BIGINT NOT NULL,
    device       TEXT COLLATE "C" NOT NULL,
    build_id     BIGINT NOT NULL REFERENCES build (id),
    resumed_from BIGINT,
    started_ms   BIGINT NOT NULL,
    seconds      DOUBLE PRECISION NOT NULL DEFAULT 0,
    samples      BIGINT NOT NULL DEFAULT 0,
    step_seconds DOUBLE PRECISION NOT NULL DEFAULT 0,
    data_seconds DOUBLE PRECISION NOT NULL DEFAULT 0,
    exit         TEXT CHECK (exit IN ('completed', 'failed', 'interrupted', 'crashed')),
    PRIMARY KEY (run_id, lease_epoch)
);
