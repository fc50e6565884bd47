"""The counterparts that Paypost talks to, as separate processes: a CIS, a mail server, a processor.

None of them imports a service of Paypost, and no service imports them: they meet only over the
wire, so that what they record can be held against what the system under test claims.
"""
