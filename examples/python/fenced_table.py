"""Two SQL tables that refuse late writers: by a token in each row, and by an epoch for the whole database."""

import sqlite3

import tenure


def set_balance(db: sqlite3.Connection, name: str, balance: int, token: int) -> bool:
    """A token in the row itself: one statement checks and writes. For a lock that protects that row."""
    with db:
        return (
            db.execute("UPDATE account SET balance = ?, token = ? WHERE name = ? AND token <= ?", (balance, token, name, token)).rowcount
            == 1
        )


def book(db: sqlite3.Connection, text: str, epoch: int) -> None:
    """An epoch for the whole database: the record is read and stored in the write's own transaction. For an office, or a gate."""
    # The write lock is taken before the record is read, so that nobody is between check and write.
    db.execute("BEGIN IMMEDIATE")
    with db:
        (stored,) = db.execute("SELECT record FROM fence").fetchone()
        admission = tenure.admit_epoch(stored, epoch)
        if admission.raised:
            db.execute("UPDATE fence SET record = ?", (admission.record,))
        db.execute("INSERT INTO journal VALUES (?, ?)", (epoch, text))


def main() -> None:
    """A holder comes back after its lock was given to somebody else."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript("""
        CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER, token INTEGER NOT NULL);
        CREATE TABLE fence (record BLOB);
        CREATE TABLE journal (epoch INTEGER, text TEXT);
        INSERT INTO account VALUES ('alice', 0, 0);
        INSERT INTO fence VALUES (NULL);
    """)
    with tenure.Node() as node:
        first = node.acquire("alice", ttl=10)
        print("first:", set_balance(db, "alice", 10, first.token))
        book(db, "ten", first.token)

        node.force_release("alice")
        second = node.acquire("alice", ttl=10)
        print("second:", set_balance(db, "alice", 20, second.token))
        book(db, "twenty", second.token)

        print("first, too late:", set_balance(db, "alice", 11, first.token))
        try:
            book(db, "eleven", first.token)
        except tenure.FencedError as fenced:
            print("first, too late: fenced by", fenced.token)
    print(db.execute("SELECT balance, token FROM account").fetchall(), db.execute("SELECT * FROM journal").fetchall())
    print("highest epoch:", tenure.read_epoch(db.execute("SELECT record FROM fence").fetchone()[0]))


if __name__ == "__main__":
    main()
