-- The settings of all runs by key, so that a list compares one of them without reading the others.
CREATE TABLE setting_key (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE                            -- optimizer.adamw.lr
) STRICT;

CREATE TABLE setting (
    key_id INTEGER NOT NULL REFERENCES setting_key (id),
    run_id INTEGER NOT NULL REFERENCES run (id),
    type   TEXT NOT NULL,                                -- integer, real, text, true, false, null, array, object
    value  ANY,                                          -- NULL of an object; an array is JSON
    PRIMARY KEY (key_id, run_id)
) STRICT, WITHOUT ROWID;

CREATE VIEW settings AS
SELECT run.uid AS run, run.name AS run_name, setting_key.name AS setting, value, type
FROM setting JOIN setting_key ON setting_key.id = key_id JOIN run ON run.id = run_id WHERE type <> 'object';

-- A setting inside of a list has no name of its own.
CREATE TRIGGER run_settings AFTER INSERT ON run
BEGIN
    INSERT INTO setting_key (name)
        SELECT replace(substr(fullkey, 3), '"', '') FROM json_tree((SELECT canonical FROM config WHERE hash = NEW.config_hash))
        WHERE fullkey <> '$' AND fullkey NOT LIKE '%[%'
        ON CONFLICT DO NOTHING;
    INSERT INTO setting (key_id, run_id, type, value)
        SELECT setting_key.id, NEW.id, json_tree.type, iif(json_tree.type = 'object', NULL, json_tree.value)
        FROM json_tree((SELECT canonical FROM config WHERE hash = NEW.config_hash))
            JOIN setting_key ON setting_key.name = replace(substr(fullkey, 3), '"', '')
        WHERE fullkey NOT LIKE '%[%'
        ON CONFLICT DO NOTHING;
END;

INSERT INTO setting_key (name)
    SELECT DISTINCT replace(substr(fullkey, 3), '"', '') FROM config, json_tree(config.canonical)
    WHERE fullkey <> '$' AND fullkey NOT LIKE '%[%'
    ON CONFLICT DO NOTHING;
INSERT INTO setting (key_id, run_id, type, value)
    SELECT setting_key.id, run.id, json_tree.type, iif(json_tree.type = 'object', NULL, json_tree.value)
    FROM run JOIN config ON config.hash = run.config_hash, json_tree(config.canonical)
        JOIN setting_key ON setting_key.name = replace(substr(fullkey, 3), '"', '')
    WHERE fullkey NOT LIKE '%[%'
    ON CONFLICT DO NOTHING;
