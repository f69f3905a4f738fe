"""`l2t-verl inspect`: recorded reasoning scored offline, and shown with the reward painted on.

A forward flow: records (what lies on disk) → scoring → rollouts (what is known of each) → page.
"""
