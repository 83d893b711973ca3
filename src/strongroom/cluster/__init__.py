"""Where driver and executors run: processes of this machine, under a supervisor."""
