"""ServingCheck: does the exported model serve real requests in a process of its own?"""
