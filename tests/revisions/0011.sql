-- A log at revision 0011. Never to be edited: logs like it are out there.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0011');
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
CREATE TABLE candidate_features (
	candidate_key TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT pk_candidate_features PRIMARY KEY (candidate_key), 
	CONSTRAINT fk_candidate_features_candidate_key FOREIGN KEY(candidate_key) REFERENCES candidates ("key")
);
INSERT INTO "candidate_features" VALUES('d40fe1142a2bbe50cc5fc0900dd63444043589748c3e1881d7f8210c703fc1cc',3,X'00');
CREATE TABLE candidates (
	"key" TEXT NOT NULL, 
	workload_key TEXT NOT NULL, 
	trace_json TEXT NOT NULL, 
	CONSTRAINT pk_candidates PRIMARY KEY ("key"), 
	CONSTRAINT fk_candidates_workload_key FOREIGN KEY(workload_key) REFERENCES workloads ("key")
);
INSERT INTO "candidates" VALUES('1ed4dd5d7f7dcba54aea24caacf9ee314c6d626352ea69a0604cb461a5fd07ad','w1','');
INSERT INTO "candidates" VALUES('d40fe1142a2bbe50cc5fc0900dd63444043589748c3e1881d7f8210c703fc1cc','w1','["fast"]');
CREATE TABLE certificates (
	serial TEXT NOT NULL, 
	name TEXT NOT NULL, 
	role TEXT NOT NULL, 
	issued_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	revoked_at DOUBLE, 
	CONSTRAINT pk_certificates PRIMARY KEY (serial)
);
INSERT INTO "certificates" VALUES('01ab','d1','AGENT',1764000000.0,1795000000.0,NULL);
CREATE TABLE "cost_models" (
	version INTEGER NOT NULL, 
	device_kind TEXT NOT NULL, 
	model_text TEXT NOT NULL, 
	trained_on BIGINT NOT NULL, 
	scores_json TEXT NOT NULL, 
	trained_at DOUBLE NOT NULL, 
	promoted BOOLEAN DEFAULT 1 NOT NULL, 
	CONSTRAINT pk_cost_models PRIMARY KEY (version)
);
CREATE TABLE device_events (
	id INTEGER NOT NULL, 
	device TEXT NOT NULL, 
	step TEXT NOT NULL, 
	text TEXT NOT NULL, 
	happened_at DOUBLE NOT NULL, 
	CONSTRAINT pk_device_events PRIMARY KEY (id)
);
INSERT INTO "device_events" VALUES(1,'d1','child','killed',1764000000.0);
CREATE TABLE device_holds (
	device TEXT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	held_by TEXT NOT NULL, 
	held_at DOUBLE NOT NULL, 
	CONSTRAINT pk_device_holds PRIMARY KEY (device)
);
INSERT INTO "device_holds" VALUES('d1','DRAINED','moved to another rack','admin',1764000000.0);
CREATE TABLE device_labels (
	device TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_device_labels PRIMARY KEY (device, "key"), 
	CONSTRAINT fk_device_labels_device FOREIGN KEY(device) REFERENCES devices (name)
);
INSERT INTO "device_labels" VALUES('d1','rack','3');
CREATE TABLE device_limits (
	device_kind TEXT NOT NULL, 
	device TEXT NOT NULL, 
	peak_gflops DOUBLE NOT NULL, 
	memory_gb_s DOUBLE NOT NULL, 
	cache_gb_s DOUBLE NOT NULL, 
	cache_bytes BIGINT NOT NULL, 
	measured_at DOUBLE NOT NULL, 
	CONSTRAINT pk_device_limits PRIMARY KEY (device_kind)
);
INSERT INTO "device_limits" VALUES('56cc2a120342ab14','d1',100.0,10.0,50.0,33554432,1700000000.0);
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
INSERT INTO "devices" VALUES('d1','56cc2a120342ab14','{"kind":"llvm","num-cores":2}','Neoverse',0,'shelf','{"cache_bytes":33554432,"cpu_features":["sve"],"cpu_model":"Neoverse","cpus":[0,1],"emulated":false,"engine_versions":{"openvino":"2026.4.1"},"host":"shelf","name":"d1","num_threads":2,"target_json":"{\"kind\":\"llvm\",\"num-cores\":2}","tool_versions":{"tvm":"0.27.0"}}',1700000000.0,1700000000.0);
CREATE TABLE imports (
	import_id INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	format TEXT NOT NULL, 
	imported_by TEXT NOT NULL, 
	imported_at DOUBLE NOT NULL, 
	records BIGINT NOT NULL, 
	CONSTRAINT pk_imports PRIMARY KEY (import_id), 
	CONSTRAINT fk_imports_imported_by FOREIGN KEY(imported_by) REFERENCES users (name)
);
INSERT INTO "imports" VALUES(1,'records.jsonl','metaschedule','alice',1700000000.0,1);
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
	package_sha256 TEXT, 
	cold_cache BOOLEAN DEFAULT 0 NOT NULL, 
	result_json TEXT, 
	target_latency_ms DOUBLE, 
	flat_share DOUBLE, 
	tuning_ended TEXT DEFAULT ('') NOT NULL, 
	direct_convolutions BOOLEAN DEFAULT 0 NOT NULL, 
	project TEXT DEFAULT 'default' NOT NULL, 
	submitted_by TEXT DEFAULT 'unknown' NOT NULL, priority TEXT DEFAULT 'NORMAL' NOT NULL, canary_drift DOUBLE, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT uq_jobs_job_id UNIQUE (job_id), 
	CONSTRAINT fk_jobs_project FOREIGN KEY(project) REFERENCES projects (name), 
	CONSTRAINT fk_jobs_submitted_by FOREIGN KEY(submitted_by) REFERENCES users (name)
);
INSERT INTO "jobs" VALUES(1,'j-00000001','81f6f3d941629974bdb85b01547069fa0f5b5bfe6898ebf4e3d76b452048a8b3','board:50051',1,1700000000.0,1700000000.0,'cls','84cdb981037648c41f06dea25de7dcb2f26c5b965a47e8e2cc44b33e0412ad66','{"kind":"llvm","num-cores":2}','{"x":{"dims":[1,3,48,192]}}',64,360.0,7,'DONE','','',12.5,NULL,1,1,0,0,'[{"flops":2500000000.0,"moved_bytes":110592,"name":"fused_w1","tied":0,"trials":1,"tuned_high_us":1010.0,"tuned_low_us":990.0,"tuned_us":1000.0,"untuned_us":8000.0,"weight":2,"workload_key":"w1"}]',NULL,NULL,NULL,NULL,'ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91',0,'{"engine":"openvino","engines":[{"error":"","high_ms":0.6,"latency_ms":0.5,"low_ms":0.4,"max_abs_error":0.0,"max_rel_error":0.0,"name":"openvino","version":"2026.4.1"}],"left_to_engine":[],"max_abs_error":1e-06,"max_rel_error":0.0002,"mixed_ms":null,"outputs":[],"package_filename":"cls-1-py3-none-any.whl","package_sha256":"ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91","package_size_bytes":5,"regions":[],"threads":[{"high_ms":0.6,"latency_ms":0.5,"low_ms":0.4,"name":"openvino","num_threads":2,"resident_bytes":67108864}],"tuned_high_ms":1.3,"tuned_low_ms":1.2,"tuned_ms":1.25,"untuned_ms":12.5,"weights_bytes":1000,"workspace_bytes":0}',2.0,0.01,'all trials were made',1,'ocr','alice','NORMAL',0.5);
CREATE TABLE leases (
	lease_id TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	device TEXT NOT NULL, 
	device_kind TEXT NOT NULL, 
	workload_key TEXT NOT NULL, 
	built_with_json TEXT NOT NULL, 
	trials_json TEXT NOT NULL, 
	leased_at DOUBLE NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (lease_id), 
	CONSTRAINT fk_leases_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
INSERT INTO "leases" VALUES('lease-1','j-00000001','d1','kind-a','w1','{}','[]',1764000000.0);
CREATE TABLE losses (
	artifact_sha256 TEXT NOT NULL, 
	device_kind TEXT NOT NULL, 
	lease_id TEXT NOT NULL, 
	device TEXT NOT NULL, 
	lost_at DOUBLE NOT NULL, 
	CONSTRAINT pk_losses PRIMARY KEY (artifact_sha256, device_kind, lease_id)
);
INSERT INTO "losses" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','kind-a','lease-1','d1',1764000000.0);
CREATE TABLE "measurements" (
	id INTEGER NOT NULL, 
	measured_at DOUBLE NOT NULL, 
	job_id TEXT, 
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
	import_id INTEGER, 
	CONSTRAINT pk_measurements PRIMARY KEY (id), 
	CONSTRAINT fk_measurements_job_id FOREIGN KEY(job_id) REFERENCES jobs (job_id), 
	CONSTRAINT fk_measurements_candidate_key FOREIGN KEY(candidate_key) REFERENCES candidates ("key"), 
	CONSTRAINT fk_measurements_import_id FOREIGN KEY(import_id) REFERENCES imports (import_id)
);
INSERT INTO "measurements" VALUES(1,1700000000.0,'j-00000001','lease-0','w1','1ed4dd5d7f7dcba54aea24caacf9ee314c6d626352ea69a0604cb461a5fd07ad','e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855','56cc2a120342ab14','OK',8000.0,'[0.008,0.016]','',0.0,NULL,'d1',0,2,'[0,1]','{"canary_drift":0.0,"canary_every":0,"cold_cache":false,"contender_ratio":0.0,"hopeless_ratio":5.0,"looks":1,"max_repeat":0,"max_timing_ms":0,"min_repeat_ms":3,"number":1,"precision":0.0,"repeat":5,"timeout_s":10.0}','{"tvm":"0.27.0"}','61fbe9a71274ec32',41.5,2400.0,'performance',0.25,'none',NULL,NULL,NULL,NULL,NULL,0.5,1.5,0.25,0.5,0.75,1.01,0,NULL);
INSERT INTO "measurements" VALUES(2,1700000000.0,'j-00000001','lease-1','w1','d40fe1142a2bbe50cc5fc0900dd63444043589748c3e1881d7f8210c703fc1cc','eb1d12732c6e8bbcf128bfab87f94903c8cbcac397518fc02a3fa5b9eea8adca','56cc2a120342ab14','OK',1000.0,'[0.001,0.002]','',0.0,NULL,'d1',0,2,'[0,1]','{"canary_drift":0.0,"canary_every":0,"cold_cache":false,"contender_ratio":0.0,"hopeless_ratio":5.0,"looks":1,"max_repeat":0,"max_timing_ms":0,"min_repeat_ms":3,"number":1,"precision":0.0,"repeat":5,"timeout_s":10.0}','{"tvm":"0.27.0"}','61fbe9a71274ec32',41.5,2400.0,'performance',0.25,'none',NULL,NULL,NULL,NULL,NULL,0.5,1.5,0.25,0.5,0.75,1.01,0,NULL);
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
INSERT INTO "packages" VALUES('package-key','j-00000001','{"engine":"openvino","engines":[{"error":"","high_ms":0.6,"latency_ms":0.5,"low_ms":0.4,"max_abs_error":0.0,"max_rel_error":0.0,"name":"openvino","version":"2026.4.1"}],"left_to_engine":[],"max_abs_error":1e-06,"max_rel_error":0.0002,"mixed_ms":null,"outputs":[],"package_filename":"cls-1-py3-none-any.whl","package_sha256":"ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91","package_size_bytes":5,"regions":[],"threads":[{"high_ms":0.6,"latency_ms":0.5,"low_ms":0.4,"name":"openvino","num_threads":2,"resident_bytes":67108864}],"tuned_high_ms":1.3,"tuned_low_ms":1.2,"tuned_ms":1.25,"untuned_ms":12.5,"weights_bytes":1000,"workspace_bytes":0}','ba59926159d2aa256eb8739b8da7e2b574b960e1202c6d624cbe981cef996c91',1700000000.0);
CREATE TABLE projects (
	name TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_projects PRIMARY KEY (name)
);
INSERT INTO "projects" VALUES('default',1700000000.0);
INSERT INTO "projects" VALUES('ocr',1700000000.0);
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
CREATE TABLE tokens (
	secret_sha256 TEXT NOT NULL, 
	name TEXT NOT NULL, 
	role TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	used_at DOUBLE, 
	CONSTRAINT pk_tokens PRIMARY KEY (secret_sha256)
);
INSERT INTO "tokens" VALUES('0000000000000000000000000000000000000000000000000000000000000000','d1','AGENT',1764000000.0,1764003600.0,1764000000.0);
CREATE TABLE users (
	name TEXT NOT NULL, 
	first_seen_at DOUBLE NOT NULL, max_running INTEGER, highest_priority TEXT, 
	CONSTRAINT pk_users PRIMARY KEY (name)
);
INSERT INTO "users" VALUES('unknown',1700000000.0,NULL,NULL);
INSERT INTO "users" VALUES('alice',1700000000.0,NULL,NULL);
CREATE TABLE workloads (
	"key" TEXT NOT NULL, 
	workload_json TEXT NOT NULL, 
	args_json TEXT NOT NULL, 
	num_outputs INTEGER NOT NULL, 
	flops DOUBLE NOT NULL, 
	CONSTRAINT pk_workloads PRIMARY KEY ("key")
);
INSERT INTO "workloads" VALUES('w1','{"root":1}','[{"dtype":"float32","shape":[1,3,48,192]}]',1,2500000000.0);
CREATE INDEX ix_rankings_job_id ON rankings (job_id);
CREATE INDEX ix_jobs_identity ON jobs (identity);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_project ON jobs (project);
CREATE INDEX ix_measurements_device ON measurements (device);
CREATE INDEX ix_measurements_candidate ON measurements (device_kind, workload_key, candidate_key, status);
CREATE INDEX ix_measurements_job ON measurements (job_id, id);
CREATE INDEX ix_measurements_artifact ON measurements (device_kind, artifact_sha256, id) WHERE artifact_sha256 IS NOT NULL;
CREATE UNIQUE INDEX uq_measurements_lease ON measurements (lease_id, candidate_key);
CREATE UNIQUE INDEX uq_measurements_unleased ON measurements (job_id, device_kind, candidate_key) WHERE lease_id IS NULL;
CREATE INDEX ix_measurements_best ON measurements (device_kind, workload_key, latency_us, id) WHERE latency_us IS NOT NULL;
CREATE INDEX ix_measurements_import ON measurements (import_id);
CREATE INDEX ix_cost_models_kind ON cost_models (device_kind, version);
CREATE INDEX ix_certificates_name ON certificates (name);
CREATE INDEX ix_tokens_name ON tokens (name);
CREATE INDEX ix_leases_leased_at ON leases (leased_at);
CREATE INDEX ix_losses_lease_id ON losses (lease_id);
CREATE INDEX ix_device_events_device_id ON device_events (device, id);
COMMIT;
