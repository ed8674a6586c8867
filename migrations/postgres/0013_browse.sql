-- What lists filter and sort by. The long texts of a run lie apart (TOAST) here, so no index has to stand in for it.
CREATE INDEX run_browse ON run (created_ms);
CREATE INDEX run_name ON run (name);
