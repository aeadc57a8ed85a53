"""`qpsmtpd compare`: the same dialogues played to several servers, and where these disagree.

`cases` holds the dialogues, `conversation` plays one, `targets` and `sinks` are who is played to
and where its mail comes to light, `findings` says what differs, `minimal` makes a dialogue small,
`text`, `document` and `page` are the reports.
"""
