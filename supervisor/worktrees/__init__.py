"""The worktrees of jobs: made at the launch, compared with how they began, and removed only when they hold no work."""
