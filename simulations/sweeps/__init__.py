"""Run many studies as one: jobs that are kept when they are done, and one table and one picture at the end."""
