-- A log at revision 0003. Never to be edited: logs like it are out there.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE blob_chunks (
	sha256 TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT pk_blob_chunks PRIMARY KEY (sha256, position), 
	CONSTRAINT fk_blob_chunks_sha256 FOREIGN KEY(sha256) REFERENCES blobs (sha256)
);
INSERT INTO "blob_chunks" VALUES('ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91',0,X'776865656C');
CREATE TABLE blobs (
	sha256 TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	stored_at DOUBLE NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (sha256)
);
INSERT INTO "blobs" VALUES('ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91',5,1700000000.0);
CREATE TABLE candidates (
	"key" TEXT NOT NULL, 
	workload_key TEXT NOT NULL, 
	trace_json TEXT NOT NULL, 
	CONSTRAINT pk_candidates PRIMARY KEY ("key"), 
	CONSTRAINT fk_candidates_workload_key FOREIGN KEY(workload_key) REFERENCES workloads ("key")
);
INSERT INTO "candidates" VALUES('1ed4dd5d7f7dcba54aea24caacf9ee314c6d626352ea69a0604cb461a5fd07ad','w1','');
INSERT INTO "candidates" VALUES('d40fe1142a2bbe50cc5fc0900dd63444043589748c3e1881d7f8210c703fc1cc','w1','["fast"]');
INSERT INTO "candidates" VALUES('1dce44b8304d82b25e00dd656ef15d3d920001fe7eaa295b08ffcb7134d7d7b2','w1','["wrong"]');
INSERT INTO "candidates" VALUES('c1e1e2c3bb1b5621b345cf0aefffe2d64334293218fe1142820ba28fddab4dd6','w2','["unbuilt"]');
CREATE TABLE cost_models (
	version INTEGER NOT NULL, 
	device_kind TEXT NOT NULL, 
	model_text TEXT NOT NULL, 
	trained_on BIGINT NOT NULL, 
	scores_json TEXT NOT NULL, 
	trained_at DOUBLE NOT NULL, 
	CONSTRAINT pk_cost_models PRIMARY KEY (version)
);
INSERT INTO "cost_models" VALUES(1,'kind-a','tree',100,'{"pairwise":0.75}',1700000000.0);
CREATE TABLE devices (
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	target_json TEXT NOT NULL, 
	cpu_model TEXT NOT NULL, 
	emulated BOOLEAN NOT NULL, 
	host TEXT NOT NULL, 
	record_json TEXT NOT NULL, 
	first_seen_at DOUBLE NOT NULL, 
	last_seen_at DOUBLE NOT NULL, 
	CONSTRAINT pk_devices PRIMARY KEY (name)
);
INSERT INTO "devices" VALUES('d1','f1449790506f9ace','{"kind":"llvm"}','Neoverse',0,'','{"cpu_features":[],"cpu_model":"Neoverse","cpus":[0,1],"emulated":false,"engines":[],"host":"","name":"d1","num_threads":2,"target_json":"{\"kind\":\"llvm\"}","tool_versions":{"gcc":"12.2","tvm":"0.27.0"}}',1700000000.0,1700000000.0);
CREATE TABLE job_tasks (
	job_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	workload_key TEXT NOT NULL, 
	weight BIGINT NOT NULL, 
	CONSTRAINT pk_job_tasks PRIMARY KEY (job_id, position), 
	CONSTRAINT fk_job_tasks_job_id FOREIGN KEY(job_id) REFERENCES jobs (job_id), 
	CONSTRAINT fk_job_tasks_workload_key FOREIGN KEY(workload_key) REFERENCES workloads ("key")
);
INSERT INTO "job_tasks" VALUES('j-00000001',0,'fused_w1','w1',2);
INSERT INTO "job_tasks" VALUES('j-00000001',1,'fused_w2','w2',1);
CREATE TABLE "jobs" (
	id INTEGER NOT NULL, 
	job_id TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	coordinator TEXT NOT NULL, 
	embedded BOOLEAN NOT NULL, 
	submitted_at DOUBLE NOT NULL, 
	heartbeat_at DOUBLE NOT NULL, 
	model_name TEXT NOT NULL, 
	model_sha256 TEXT NOT NULL, 
	target_json TEXT NOT NULL, 
	shapes_json TEXT NOT NULL, 
	requested_trials BIGINT NOT NULL, 
	time_limit_s DOUBLE, 
	seed BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	error TEXT NOT NULL, 
	elapsed_s DOUBLE NOT NULL, 
	remaining_s DOUBLE, 
	trials_total BIGINT NOT NULL, 
	trials_ok BIGINT NOT NULL, 
	trials_failed BIGINT NOT NULL, 
	trials_from_log BIGINT NOT NULL, 
	tasks_json TEXT NOT NULL, 
	ranking_pairwise DOUBLE, 
	ranking_peak_at_1 DOUBLE, 
	ranking_peak_at_5 DOUBLE, 
	ranking_batches BIGINT, 
	untuned_ms DOUBLE, 
	tuned_ms DOUBLE, 
	onnxruntime_ms DOUBLE, 
	max_abs_error DOUBLE, 
	max_rel_error DOUBLE, 
	package_filename TEXT, 
	package_sha256 TEXT, 
	package_size_bytes BIGINT, 
	cold_cache BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT uq_jobs_job_id UNIQUE (job_id)
);
INSERT INTO "jobs" VALUES(1,'j-00000001','d4a209d919938c13b9d6aa3c450d3365ec3afcc929b59ffdf164ba5d510ccbc2','board:50051',1,1700000000.0,1700000000.0,'cls','84cdb981037648c41f06dea25de7dcb2f26c5b965a47e8e2cc44b33e0412ad66','{"kind":"llvm"}','{"x":{"dims":[1,3,48,192]}}',64,360.0,7,'DONE','done','',12.5,NULL,3,1,2,0,'[{"name":"fused_w1","trials":2,"tuned_us":2000.0,"untuned_us":8000.0,"weight":2,"workload_key":"w1"}]',0.75,0.5,1.0,1,12.5,1.25,2.5,1.0e-06,0.0002,'m-1-py3-none-any.whl','abababababababababababababababababababababababababababababababab',1234,0);
CREATE TABLE "measurements" (
	id INTEGER NOT NULL, 
	measured_at DOUBLE NOT NULL, 
	job_id TEXT NOT NULL, 
	lease_id TEXT, 
	workload_key TEXT NOT NULL, 
	candidate_key TEXT NOT NULL, 
	artifact_sha256 TEXT, 
	device_kind TEXT NOT NULL, 
	status TEXT NOT NULL, 
	latency_us DOUBLE, 
	repeats_s_json TEXT NOT NULL, 
	error TEXT NOT NULL, 
	max_abs_error DOUBLE, 
	predicted_score DOUBLE, 
	device TEXT, 
	emulated BOOLEAN, 
	num_threads INTEGER, 
	cpus_json TEXT, 
	evaluator_json TEXT, 
	tool_versions_json TEXT, 
	tool_versions_key TEXT, 
	before_temperature_c DOUBLE, 
	before_frequency_mhz DOUBLE, 
	before_governor TEXT, 
	before_load_1m DOUBLE, 
	before_throttled TEXT, 
	after_temperature_c DOUBLE, 
	after_frequency_mhz DOUBLE, 
	after_governor TEXT, 
	after_load_1m DOUBLE, 
	after_throttled TEXT, 
	lock_wait_s DOUBLE, 
	busy_s DOUBLE, 
	load_s DOUBLE, 
	check_s DOUBLE, 
	time_s DOUBLE, 
	canary_ratio DOUBLE, 
	cold_cache BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_measurements PRIMARY KEY (id), 
	CONSTRAINT fk_measurements_candidate_key FOREIGN KEY(candidate_key) REFERENCES candidates ("key"), 
	CONSTRAINT fk_measurements_job_id FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
INSERT INTO "measurements" VALUES(1,1700000000.0,'j-00000001','lease-1','w1','1ed4dd5d7f7dcba54aea24caacf9ee314c6d626352ea69a0604cb461a5fd07ad','49e6dc91669cc1a1dd12bad69673f740bbe05f8f91257581f831715b1a7bddac','kind-a','OK',8000.0,'[0.008]','',1.0e-07,NULL,'d1',1,2,'[0,3]','{"cold_cache":true,"hopeless_ratio":5.0,"min_repeat_ms":5,"number":3,"repeat":7,"timeout_s":10.0}','{"gcc":"12.2","tvm":"0.27.0"}','14d97236ba6b2cee',41.5,2400.0,'performance',0.25,'none',55.0,NULL,NULL,NULL,NULL,0.5,1.5,NULL,NULL,NULL,NULL,0);
INSERT INTO "measurements" VALUES(2,1700000000.0,'j-00000001','lease-2','w1','d40fe1142a2bbe50cc5fc0900dd63444043589748c3e1881d7f8210c703fc1cc','8b46e30723f4fcce0483cc99624e1b144594242ea611907642c670f74a8daea4','kind-a','OK',1000.0,'[0.001,0.002,0.003]','',1.0e-07,0.75,'d1',1,2,'[0,3]','{"cold_cache":true,"hopeless_ratio":5.0,"min_repeat_ms":5,"number":3,"repeat":7,"timeout_s":10.0}','{"gcc":"12.2","tvm":"0.27.0"}','14d97236ba6b2cee',41.5,2400.0,'performance',0.25,'none',55.0,NULL,NULL,NULL,NULL,0.5,1.5,NULL,NULL,NULL,NULL,0);
INSERT INTO "measurements" VALUES(3,1700000000.0,'j-00000001','lease-2','w1','1dce44b8304d82b25e00dd656ef15d3d920001fe7eaa295b08ffcb7134d7d7b2','31f46f22fe4370a5f8e1a7551f49039a3926fe5b346723a0c99baf689c7ade1d','kind-a','WRONG_OUTPUT',NULL,'[]','it said no',1.0e-07,NULL,'d1',1,2,'[0,3]','{"cold_cache":true,"hopeless_ratio":5.0,"min_repeat_ms":5,"number":3,"repeat":7,"timeout_s":10.0}','{"gcc":"12.2","tvm":"0.27.0"}','14d97236ba6b2cee',41.5,2400.0,'performance',0.25,'none',55.0,NULL,NULL,NULL,NULL,0.5,1.5,NULL,NULL,NULL,NULL,0);
INSERT INTO "measurements" VALUES(4,1700000000.0,'j-00000001',NULL,'w2','c1e1e2c3bb1b5621b345cf0aefffe2d64334293218fe1142820ba28fddab4dd6',NULL,'kind-a','BUILD_ERROR',NULL,'[]','no',0.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0);
CREATE TABLE packages (
	"key" TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	result_json TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	packaged_at DOUBLE NOT NULL, 
	CONSTRAINT pk_packages PRIMARY KEY ("key"), 
	CONSTRAINT fk_packages_job_id FOREIGN KEY(job_id) REFERENCES jobs (job_id), 
	CONSTRAINT fk_packages_sha256 FOREIGN KEY(sha256) REFERENCES blobs (sha256)
);
INSERT INTO "packages" VALUES('package-key','j-00000001','{"max_abs_error":1e-06,"max_rel_error":0.0002,"onnxruntime_ms":2.5,"package_filename":"m-1-py3-none-any.whl","package_sha256":"abababababababababababababababababababababababababababababababab","package_size_bytes":1234,"tuned_ms":1.25,"untuned_ms":12.5}','ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91',1700000000.0);
CREATE TABLE rankings (
	id INTEGER NOT NULL, 
	job_id TEXT NOT NULL, 
	workload_key TEXT NOT NULL, 
	cost_model_version INTEGER, 
	pairwise DOUBLE, 
	peak_at_1 DOUBLE, 
	peak_at_5 DOUBLE, 
	candidates INTEGER NOT NULL, 
	ranked_at DOUBLE NOT NULL, 
	CONSTRAINT pk_rankings PRIMARY KEY (id), 
	CONSTRAINT fk_rankings_cost_model_version FOREIGN KEY(cost_model_version) REFERENCES cost_models (version), 
	CONSTRAINT fk_rankings_job_id FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
INSERT INTO "rankings" VALUES(1,'j-00000001','w1',1,0.75,0.5,1.0,2,1700000000.0);
CREATE TABLE workloads (
	"key" TEXT NOT NULL, 
	workload_json TEXT NOT NULL, 
	args_json TEXT NOT NULL, 
	num_outputs INTEGER NOT NULL, 
	flops DOUBLE NOT NULL, 
	CONSTRAINT pk_workloads PRIMARY KEY ("key")
);
INSERT INTO "workloads" VALUES('w1','{"root":1}','[{"dtype":"float32","shape":[1,3,48,192]},{"dtype":"int64","shape":[]}]',1,2500000000.0);
INSERT INTO "workloads" VALUES('w2','{"root":1}','[{"dtype":"float32","shape":[1,3,48,192]},{"dtype":"int64","shape":[]}]',1,2500000000.0);
CREATE INDEX ix_cost_models_kind ON cost_models (device_kind, version);
CREATE INDEX ix_rankings_job_id ON rankings (job_id);
CREATE INDEX ix_measurements_job ON measurements (job_id, id);
CREATE UNIQUE INDEX uq_measurements_lease ON measurements (lease_id, candidate_key);
CREATE INDEX ix_measurements_candidate ON measurements (device_kind, workload_key, candidate_key, status);
CREATE INDEX ix_measurements_best ON measurements (device_kind, workload_key, latency_us, id) WHERE latency_us IS NOT NULL;
CREATE UNIQUE INDEX uq_measurements_unleased ON measurements (job_id, device_kind, candidate_key) WHERE lease_id IS NULL;
CREATE INDEX ix_measurements_artifact ON measurements (device_kind, artifact_sha256, id) WHERE artifact_sha256 IS NOT NULL;
CREATE INDEX ix_measurements_device ON measurements (device);
CREATE INDEX ix_jobs_identity ON jobs (identity);
CREATE INDEX ix_jobs_state ON jobs (state);
COMMIT;
