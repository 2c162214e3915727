BEGIN TRANSACTION;
CREATE TABLE baselines (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	kind VARCHAR NOT NULL, 
	scanner VARCHAR NOT NULL, 
	simulated BOOLEAN NOT NULL, 
	document TEXT NOT NULL
);
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
CREATE TABLE occasions (
	job VARCHAR NOT NULL, 
	day VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	run INTEGER NOT NULL, 
	PRIMARY KEY (job, day, attempt), 
	FOREIGN KEY(run) REFERENCES runs (sequence)
);
CREATE TABLE parts (
	whole INTEGER NOT NULL, 
	part INTEGER NOT NULL, 
	PRIMARY KEY (whole, part), 
	FOREIGN KEY(whole) REFERENCES runs (sequence), 
	FOREIGN KEY(part) REFERENCES runs (sequence)
);
CREATE TABLE results (
	run INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	check_id VARCHAR NOT NULL, 
	node VARCHAR NOT NULL, 
	value FLOAT, 
	unit VARCHAR NOT NULL, 
	uncertainty FLOAT, 
	n INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	reason TEXT, 
	PRIMARY KEY (run, position), 
	FOREIGN KEY(run) REFERENCES runs (sequence)
);
INSERT INTO "results" VALUES(1,0,'photopeak','module:0.0.0',510.0,'keV',0.2,1000,'pass',NULL);
INSERT INTO "results" VALUES(1,1,'photopeak','module:0.0.1',511.0,'keV',0.2,1000,'pass',NULL);
INSERT INTO "results" VALUES(1,2,'photopeak','module:0.0.2',512.0,'keV',0.2,1000,'pass',NULL);
CREATE TABLE runs (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	run_id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	scanner VARCHAR NOT NULL, 
	simulated BOOLEAN NOT NULL, 
	state VARCHAR NOT NULL, 
	started_at VARCHAR NOT NULL, 
	started_monotonic_s FLOAT NOT NULL, 
	boot_id VARCHAR NOT NULL, 
	instance VARCHAR NOT NULL, 
	folder VARCHAR NOT NULL, 
	config_hash VARCHAR NOT NULL, 
	finished_at VARCHAR, 
	verdict VARCHAR, 
	sentence TEXT, 
	document TEXT, 
	CONSTRAINT known_state CHECK (state IN ('running', 'finished')), 
	CONSTRAINT whole_or_not CHECK ((state = 'running') = (document IS NULL) AND (document IS NULL) = (verdict IS NULL)), 
	UNIQUE (run_id)
);
INSERT INTO "runs" VALUES(1,'a','daily','bench',1,'finished','2026-03-02T06:00:00+00:00',43104.801274571,'6196cf24-7b87-4890-9f1b-b7ca5ff6f24a','229b7356afb14fd383f7077aa0a6fd93','runs/a','c','2026-03-02T06:01:00+00:00','pass','Scan: all fine.','{
 "schema": "petqc-run/1",
 "run_id": "a",
 "kind": "daily",
 "scanner": "bench",
 "started_at": "2026-03-02T06:00:00+00:00",
 "finished_at": "2026-03-02T06:01:00+00:00",
 "simulated": true,
 "verdict": "pass",
 "sentence": "Scan: all fine.",
 "software": {
  "petqc": "0"
 },
 "config_hash": "c",
 "calibration_ids": {},
 "baselines": {},
 "raw_files": [],
 "environment": [],
 "account": {},
 "checks": [
  {
   "id": "photopeak",
   "node": "module:0.0.0",
   "value": 510.0,
   "unit": "keV",
   "uncertainty": 0.2,
   "n": 1000,
   "limits": {
    "fail_low": null,
    "warn_low": 500.0,
    "warn_high": 520.0,
    "fail_high": null
   },
   "status": "pass",
   "reason": null,
   "baseline": null,
   "method": null
  },
  {
   "id": "photopeak",
   "node": "module:0.0.1",
   "value": 511.0,
   "unit": "keV",
   "uncertainty": 0.2,
   "n": 1000,
   "limits": {
    "fail_low": null,
    "warn_low": 500.0,
    "warn_high": 520.0,
    "fail_high": null
   },
   "status": "pass",
   "reason": null,
   "baseline": null,
   "method": null
  },
  {
   "id": "photopeak",
   "node": "module:0.0.2",
   "value": 512.0,
   "unit": "keV",
   "uncertainty": 0.2,
   "n": 1000,
   "limits": {
    "fail_low": null,
    "warn_low": 500.0,
    "warn_high": 520.0,
    "fail_high": null
   },
   "status": "pass",
   "reason": null,
   "baseline": null,
   "method": null
  }
 ],
 "diagnosis": [],
 "notes": []
}
');
INSERT INTO "runs" VALUES(2,'b','daily','bench',1,'running','2026-03-02T06:00:00+00:00',43104.861334547,'6196cf24-7b87-4890-9f1b-b7ca5ff6f24a','229b7356afb14fd383f7077aa0a6fd93','runs/b','c',NULL,NULL,NULL,NULL);
CREATE TABLE schedules (
	job VARCHAR NOT NULL, 
	since VARCHAR NOT NULL, 
	PRIMARY KEY (job)
);
CREATE INDEX results_trend ON results (check_id, node, run);
CREATE UNIQUE INDEX parts_part ON parts (part);
CREATE TRIGGER runs_unchanged BEFORE UPDATE ON runs WHEN OLD.state = 'finished' BEGIN SELECT RAISE(ABORT, 'a stored run is never changed'); END;
CREATE TRIGGER runs_kept BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'a run is never deleted'); END;
CREATE TRIGGER parts_unchanged BEFORE UPDATE ON parts BEGIN SELECT RAISE(ABORT, 'a stored run is never changed'); END;
CREATE TRIGGER parts_kept BEFORE DELETE ON parts BEGIN SELECT RAISE(ABORT, 'a run is never deleted'); END;
CREATE TRIGGER occasions_unchanged BEFORE UPDATE ON occasions BEGIN SELECT RAISE(ABORT, 'an occasion is never changed'); END;
CREATE TRIGGER occasions_kept BEFORE DELETE ON occasions BEGIN SELECT RAISE(ABORT, 'an occasion is never deleted'); END;
CREATE TRIGGER results_unchanged BEFORE UPDATE ON results BEGIN SELECT RAISE(ABORT, 'a stored result is never changed'); END;
CREATE TRIGGER baselines_unchanged BEFORE UPDATE ON baselines BEGIN SELECT RAISE(ABORT, 'a baseline is never changed'); END;
CREATE TRIGGER baselines_kept BEFORE DELETE ON baselines BEGIN SELECT RAISE(ABORT, 'a baseline is never deleted'); END;
CREATE TRIGGER results_kept BEFORE DELETE ON results BEGIN SELECT RAISE(ABORT, 'a result is never deleted'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',2);
COMMIT;
