"""Records that leave a tuning log as files, and come into one.

Two formats: Parquet, lossless, for analysis and between farms; and MetaSchedule's own JSON
database. Whatever is read is checked, because anybody may have written it.
"""
