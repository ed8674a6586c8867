-- What people say of a run. Unlike what it ran, it may change.
CREATE TABLE annotation (
    run_id      BIGINT PRIMARY KEY REFERENCES run (id),
    run_group   TEXT COLLATE "C" CHECK (length(run_group) > 0),
    note        TEXT COLLATE "C" CHECK (length(note) > 0),
    archived_ms BIGINT
);

CREATE INDEX annotation_group ON annotation (run_group) WHERE run_group IS NOT NULL;

CREATE TABLE tag (
    run_id BIGINT NOT NULL REFERENCES run (id),
    name   TEXT COLLATE "C" NOT NULL CHECK (length(name) > 0),
    PRIMARY KEY (run_id, name)
);

CREATE VIEW annotations AS
SELECT run.uid AS run, run.name AS run_name, run_group, note, (archived_ms IS NOT NULL)::int AS archived,
    (SELECT string_agg(tag.name, ',' ORDER BY tag.name) FROM tag WHERE run_id = run.id) AS tags
FROM run LEFT JOIN annotation ON annotation.run_id = run.id;

CREATE VIEW tags AS
SELECT tag.name AS tag, run.uid AS run, run.name AS run_name FROM tag JOIN run ON run.id = tag.run_id;
