"""The report of runs as one HTML page: `gather` reads workdirs, `sections` and `charts` choose what is shown, `page` writes it."""
