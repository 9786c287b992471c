"""What a run may learn about a unit of privacy: accountant, plan, mechanisms, DP-SGD, releases, statement."""
