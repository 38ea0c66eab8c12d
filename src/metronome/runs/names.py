"""What the files of a run, of a sweep and of a report are called."""

# A run: what it was asked for, what it takes, how it ended.
CONFIG_FILE, PLAN_FILE, RESULT_FILE = "config.yaml", "plan.json", "result.json"
# A sweep, as Hydra's own sweeper calls it: what its jobs are.
SWEEP_FILE = "multirun.yaml"
# What a study asks, and in which order the jobs of a sweep are made.
STUDY_FILE, ORDER_FILE = "study.json", "order.json"
# Of a run or a sweep, while a process works in the folder.
LOCK_FILE = ".lock"
# A report: its page, and a row for each run.
REPORT_FILE, SUMMARY_FILE = "report.html", "summary.csv"
# Of a run that is stored elsewhere too: what is on its way there, or back.
STORAGE_FOLDER = ".storage"
# Of a run: the torchruns that have started its processes, so that they find it when they start them again.
STARTED_BY_FILE = ".torchrun"
