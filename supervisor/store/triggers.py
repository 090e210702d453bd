"""What a change of a row of ``jobs`` or ``waiting`` changes in the other tables, in the same transaction.

Triggers do that, so every version of the package does it, and no kill can fall in between. A new connection parses all
of them, which takes 4 to 20 us each. So there is one for each kind of change, in place of the eight that earlier
migrations have made. The index on ``held`` cost each admission more than it saved, as few jobs run at a time.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CHANGED", "SCHEMA"]

CHANGED: Final = """
        INSERT OR IGNORE INTO times SELECT '', -1, on_seq FROM deps WHERE on_seq = NEW.seq;
        DELETE FROM waiting WHERE seq = NEW.seq AND NEW.completed_ns;
        DELETE FROM held WHERE seq = NEW.seq AND NEW.completed_ns;
        DELETE FROM later WHERE seq = NEW.seq AND NEW.completed_ns;
        DELETE FROM deps WHERE seq = NEW.seq AND NEW.completed_ns;
""".strip()
"""What the trigger ``jobs_changed`` of each version does; a later migration makes it again, with more."""

# ``times`` gets each job on which others depend and that has changed, with the time -1, and the dependents of a deleted
# one, see ``later``. The labels are those of a JSON text without spaces, as every version writes it.
SCHEMA: Final = f"""
    DROP TRIGGER IF EXISTS labels_given;
    DROP TRIGGER IF EXISTS labels_gone;
    DROP TRIGGER IF EXISTS admission_ended;
    DROP TRIGGER IF EXISTS admission_gone;
    DROP TRIGGER IF EXISTS later_changed;
    DROP TRIGGER IF EXISTS later_gone;
    DROP TRIGGER IF EXISTS ranks_in;
    DROP TRIGGER IF EXISTS ranks_out;
    DROP INDEX IF EXISTS held_lane;
    CREATE TRIGGER IF NOT EXISTS labels_given AFTER INSERT ON jobs
    WHEN instr(NEW.spec, '"labels":{{"') AND json_valid(NEW.spec)
    BEGIN
        INSERT OR IGNORE INTO labels
            SELECT CAST(key AS BLOB), CAST(value AS BLOB), NEW.seq FROM json_each(NEW.spec, '$.labels');
    END;
    CREATE TRIGGER IF NOT EXISTS jobs_changed AFTER UPDATE OF state ON jobs
    BEGIN
        {CHANGED}
    END;
    CREATE TRIGGER IF NOT EXISTS jobs_gone AFTER DELETE ON jobs
    BEGIN
        DELETE FROM labels WHERE seq = OLD.seq;
        DELETE FROM waiting WHERE seq = OLD.seq;
        DELETE FROM held WHERE seq = OLD.seq;
        DELETE FROM later WHERE seq = OLD.seq;
        DELETE FROM deps WHERE seq = OLD.seq OR on_seq = OLD.seq AND how = 'met';
        INSERT OR IGNORE INTO times SELECT '', 0, seq FROM deps WHERE on_seq = OLD.seq;
        UPDATE OR REPLACE deps SET on_seq = 0, how = 'never' WHERE on_seq = OLD.seq;
    END;
    CREATE TRIGGER IF NOT EXISTS ranks_in AFTER INSERT ON waiting
    BEGIN
        INSERT INTO ranks VALUES (NEW.lane, 27, NEW.rank >> 27, 1), (NEW.lane, 38, NEW.rank >> 38, 1)
            ON CONFLICT (lane, size, range) DO UPDATE SET jobs = jobs + 1;
    END;
    CREATE TRIGGER IF NOT EXISTS ranks_out AFTER DELETE ON waiting
    BEGIN
        INSERT INTO ranks VALUES (OLD.lane, 27, OLD.rank >> 27, 0), (OLD.lane, 38, OLD.rank >> 38, 0)
            ON CONFLICT (lane, size, range) DO UPDATE SET jobs = jobs - 1;
    END;
"""  # noqa: S608  # our own names
