"""The tests of sessions and of whole videos, with a network of ONNX graphs."""

from __future__ import annotations

from tests.tracking.test_passes import (
    test_both_directions_give_every_frame_once_in_order,
    test_both_directions_of_a_prompt_on_the_first_frame_is_one_pass,
    test_both_directions_with_prompts_beyond_the_end,
    test_clicks_off_an_object_before_it_is_there,
    test_lookahead_gives_every_object_from_the_start,
    test_short_videos_have_pointers_scaled_by_their_length,
    test_start_and_end,
    test_track_is_a_loop_over_step,
)
from tests.tracking.test_session import (
    calls,
    stepped,
    test_a_correction_conditions_the_frames_after_it,
    test_a_prompt_on_a_coming_frame_is_initial_and_sees_no_memory,
    test_a_prompted_mask_is_remembered_as_it_was_shown,
    test_a_session_forgets_its_video_at_the_end,
    test_an_object_prompted_later_or_corrected_never_changes_another,
    test_bad_input_is_refused_and_changes_nothing,
    test_clicks_off_an_object_on_a_coming_frame_take_away_from_what_is_tracked,
    test_clicks_on_one_frame_add_up,
    test_conditioning_in_advance_reaches_frames_before_it,
    test_features_of_the_last_frame_are_kept_for_corrections,
    test_frames_can_come_in_reverse,
    test_holes_are_filled_in_what_is_shown_not_in_what_tracking_remembers,
    test_masks_without_overlap_where_asked_for,
    test_memories_are_stored_in_the_dtype_asked_for,
    test_memory_of_a_mask_prompt_comes_from_low_resolution_logits_or_the_full_mask,
    test_nothing_grows_with_the_length_of_the_video,
    test_objects_of_one_layout_share_every_call,
    test_objects_per_batch_bounds_the_batch,
    test_objects_tracked_together_are_as_if_tracked_alone,
    test_only_so_many_frames_back_can_be_corrected,
    test_options_that_the_network_carries_out,
    test_previous_logits_need_not_be_fed_back,
    test_prompted_masks_can_be_binarised,
    test_two_sessions_side_by_side_and_one_used_again,
    test_without_objects_the_encoder_does_not_run,
)
