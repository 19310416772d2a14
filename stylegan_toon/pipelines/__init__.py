"""The functions behind the commands: photos, networks and pictures go in, results come out; no command line here."""
