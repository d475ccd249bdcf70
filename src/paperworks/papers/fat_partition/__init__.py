"""The paper on fat polygonal partitions: its card, claims and command."""
