"""A supervisor at work in Trio: the registry actor, one actor for each job, the janitor, and the public class."""
