"""The plugins that come with qpsmtpd, one a file, under the names they have in `config/plugins`."""
