"""The report of runs as one HTML page: `gather` reads workdirs, `sections` and `charts` say what is shown, `page` writes it."""
